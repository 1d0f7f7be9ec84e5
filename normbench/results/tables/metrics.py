"""The main numbers as JSON, for `dvc metrics`."""

from __future__ import annotations

import math

from normbench.results.tables.table import Row

Metrics = dict[str, dict[str, dict[str, float]]]  # task -> variant -> metric -> value


def metrics(leaderboard: list[Row], gan: list[Row]) -> Metrics:
    """Returns the metrics of both tables, rounded to six significant digits; metrics without a value are left out.

    A task and a GAN task of the same name share an entry.
    """
    found: Metrics = {}
    for rows, names in ((leaderboard, ("clean_accuracy", "corruption_accuracy", "mce")), (gan, ("fid",))):
        for row in rows:
            values = {name: float(f"{row[name]:.6g}") for name in names if not math.isnan(row[name])}
            found.setdefault(row["task"], {}).setdefault(row["variant"], {}).update(values)
    return found
