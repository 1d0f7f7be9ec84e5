"""The labels of pixels: what marks a pixel that counts nowhere, and which pixel is the nearest in another size."""

from __future__ import annotations

import numpy as np

IGNORED = 255  # of a stored mask: a pixel that counts neither in the loss nor in a score


def nearest(own: int, resized: int, places: np.ndarray) -> np.ndarray:
    """The place in a row of `own` pixels that is nearest to each place in the same row resized to `resized` pixels."""
    return np.minimum((places + 0.5) * own / resized, own - 1).astype(np.int64)
