"""The best variant of a column, if one is clearly the best; tuned variants and others are compared among themselves."""

from __future__ import annotations

import math

import numpy as np

from normbench.results.tables.table import Row


def alike(rows: list[Row]) -> list[list[Row]]:
    """Returns the rows in groups that can be compared: those that are not tuned, and those tuned by as many trials."""
    kinds: dict[int, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row["tuned"], []).append(row)
    return list(kinds.values())


def clear_bests(rows: list[Row], column: str, highest: bool) -> list[str]:
    """Returns the variants that are clearly the best among those like them (see `alike`, `clear_best`)."""
    found = [clear_best(group, column, highest) for group in alike(rows)]
    return [variant for variant in found if variant is not None]


def clear_best(rows: list[Row], column: str, highest: bool) -> str | None:
    """Returns the variant that is clearly the best, or None.

    It is if its mean, made worse by its standard deviation, is still better than the mean of every other variant, made
    better by that variant's standard deviation. A variant with a single finished run has no standard deviation, so it
    cannot be the best; as a rival it counts with its value alone. highest: whether high values are good.
    """
    sign = 1 if highest else -1
    ranked = sorted((row for row in rows if not math.isnan(row[column])), key=lambda row: -sign * row[column])
    if len(ranked) < 2 or math.isnan(ranked[0][f"{column}_std"]):
        return None
    low = sign * ranked[0][column] - ranked[0][f"{column}_std"]
    rivals = [sign * row[column] + np.nan_to_num(row[f"{column}_std"]) for row in ranked[1:]]
    return ranked[0]["variant"] if low > max(rivals) else None
