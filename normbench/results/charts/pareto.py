"""The Pareto front: the points that no other point beats."""

from __future__ import annotations

import numpy as np


def front(points: np.ndarray) -> np.ndarray:
    """Returns which of the points (N, 2) no other point beats: as good in both coordinates, and better in one.

    Lower is better in both coordinates. A point with a coordinate that is not a number is not on the front.
    """
    found = np.zeros(len(points), bool)
    known = ~np.isnan(points).any(1)
    best = np.inf  # lowest second coordinate of all points with a lower first one
    for first in np.unique(points[known, 0]):
        column = known & (points[:, 0] == first)
        lowest = points[column, 1].min()
        if lowest < best:
            found |= column & (points[:, 1] == lowest)
            best = lowest
    return found
