"""The mean corruption error (mCE) of Hendrycks and Dietterich (ICLR 2019, section 4), in percent of a baseline's.

The error on a corruption is summed over severities and divided by that of the baseline; the mCE is the mean of these
ratios over the corruptions. Errors are means over the given records, which must be of finished runs. The result is NaN
if one side has no records, if there are no corruptions, or if the baseline's error on one of them is not positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normbench.runs.record import Record

Accuracies = Callable[[Record], dict[str, list[float]]]  # from a record to corruption -> accuracy at each severity


def mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """Returns the mean corruption error over the corruptions `names`, in percent."""
    return _mean_ratio(_errors(own, names).sum(1), _errors(baseline, names).sum(1))


def relative_mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """Returns the relative mCE in percent: the error on clean images is subtracted first, on both sides."""
    added = [_errors(records, names) - _clean_error(records) for records in (own, baseline)]
    return _mean_ratio(added[0].sum(1), added[1].sum(1))


def batch_mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """Returns the mCE with statistics of the test batches, relative to the baseline without them, in percent.

    Runs that were not scored with such statistics are left out.
    """
    adapted = [record for record in own if "batch_statistics" in record.metrics]
    errors = _errors(adapted, names, lambda record: record.metrics["batch_statistics"]["corruption_accuracy"])
    return _mean_ratio(errors.sum(1), _errors(baseline, names).sum(1))


def _plain(record: Record) -> dict[str, list[float]]:
    return record.metrics["corruption_accuracy"]


def _errors(records: list[Record], names: list[str], accuracies: Accuracies = _plain) -> np.ndarray:
    """Returns errors (corruptions, severities), averaged over the runs; (0, 0) without runs or corruptions."""
    if not records or not names:
        return np.empty((0, 0))
    return 1 - np.mean([[accuracies(record)[name] for name in names] for record in records], axis=0)


def _clean_error(records: list[Record]) -> float:
    """Returns the error on clean images, averaged over the runs; NaN if there are none."""
    return 1 - float(np.mean([record.metrics["clean_accuracy"] for record in records])) if records else math.nan


def _mean_ratio(own: np.ndarray, reference: np.ndarray) -> float:
    """Returns the mean ratio of the errors of each corruption in percent; NaN if it is undefined."""
    if not len(own) or not len(reference) or not (reference > 0).all():
        return math.nan
    return 100 * float((own / reference).mean())
