"""Runs: what one is, what it leaves, and where that lies."""
