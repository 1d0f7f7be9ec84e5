"""Datasets: their sources, and the batches that live on the training device."""
