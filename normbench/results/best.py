"""Which variant is the best of a column, where one clearly is."""

from __future__ import annotations

import math

import numpy as np

from normbench.results.tables.table import Row


def clear_best(rows: list[Row], column: str, highest: bool) -> str | None:
    """The variant whose mean stays better than every other's when both give up one standard deviation, or None.

    A variant with one finished run has no standard deviation: it cannot be the best, and counts with its value alone
    against another. highest: whether high values are good.
    """
    sign = 1 if highest else -1
    ranked = sorted((row for row in rows if not math.isnan(row[column])), key=lambda row: -sign * row[column])
    if len(ranked) < 2 or math.isnan(ranked[0][f"{column}_std"]):
        return None
    low = sign * ranked[0][column] - ranked[0][f"{column}_std"]
    rivals = [sign * row[column] + np.nan_to_num(row[f"{column}_std"]) for row in ranked[1:]]
    return ranked[0]["variant"] if low > max(rivals) else None
