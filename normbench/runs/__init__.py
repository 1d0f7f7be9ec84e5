"""Runs: their identity, their training, their records, and the run store that keeps them."""
