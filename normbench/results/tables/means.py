"""Means over the finished runs of a variant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

Runs = dict[tuple[str, str], list[dict[str, Any]]]  # (task, variant) -> records, in the order of the suite


def finished(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["status"] == "finished"]


def mean(values: Iterable[float]) -> float:
    """NaN where there are none."""
    return float(pd.Series(list(values), dtype=float).mean())


def std(values: Iterable[float]) -> float:
    """Sample standard deviation; NaN for fewer than two values."""
    return float(pd.Series(list(values), dtype=float).std(ddof=1))
