"""The type of a suite's records, and means over the finished runs of a variant."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from normbench.runs.record import Record

Runs = dict[tuple[str, str], list[Record]]  # (task, variant) -> a record for each seed, in the order of the suite


def finished(records: Iterable[Record]) -> list[Record]:
    """Returns the records of the runs that have not failed: they neither diverged nor collapsed."""
    return [record for record in records if record.finished and not collapsed(record)]


def collapsed(record: Record) -> bool:
    """Whether a run finished with a network that names one class for every image, or a GAN whose samples are alike."""
    return bool(record.metrics.get("collapsed", False))


def mean(values: Iterable[float]) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    known = _known(values)
    return float(known.mean()) if len(known) else math.nan


def median(values: Iterable[float]) -> float:
    """Returns the median of the values that are not NaN; NaN if there are none."""
    known = _known(values)
    return float(np.median(known)) if len(known) else math.nan


def std(values: Iterable[float]) -> float:
    """Returns the sample standard deviation of the values that are not NaN; NaN if there are fewer than two."""
    known = _known(values)
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def _known(values: Iterable[float]) -> np.ndarray:
    found = np.array(list(values), dtype=float)
    return found[~np.isnan(found)]
