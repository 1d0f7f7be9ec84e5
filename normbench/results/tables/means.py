"""The type of a suite's records, and means over the finished runs of a variant."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from normbench.runs.record import Record

Runs = dict[tuple[str, str], list[Record]]  # (task, variant) -> a record for each seed, in the order of the suite


def finished(records: Iterable[Record]) -> list[Record]:
    """Returns the records of the runs that did not diverge."""
    return [record for record in records if record.finished]


def mean(values: Iterable[float]) -> float:
    """Returns the mean; NaN if there are no values."""
    return float(pd.Series(list(values), dtype=float).mean())


def std(values: Iterable[float]) -> float:
    """Returns the sample standard deviation; NaN if there are fewer than two values."""
    return float(pd.Series(list(values), dtype=float).std(ddof=1))
