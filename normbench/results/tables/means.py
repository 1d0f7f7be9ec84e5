"""The records of a suite, and means over the finished runs of a variant."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from normbench.runs.record import Record

Runs = dict[tuple[str, str], list[Record]]  # (task, variant) -> a record for each seed, in the order of the suite


def finished(records: Iterable[Record]) -> list[Record]:
    """The records of the runs that did not diverge."""
    return [record for record in records if record.finished]


def mean(values: Iterable[float]) -> float:
    """NaN where there are no values."""
    return float(pd.Series(list(values), dtype=float).mean())


def std(values: Iterable[float]) -> float:
    """The sample standard deviation; NaN for fewer than two values."""
    return float(pd.Series(list(values), dtype=float).std(ddof=1))
