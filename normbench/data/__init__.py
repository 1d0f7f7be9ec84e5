"""Datasets: sources and their checksums, preparation, batches on the training device, label noise."""

from __future__ import annotations

from normbench.data.labels import corrupt_labels

__all__ = ["corrupt_labels"]
