"""The mean corruption error of Hendrycks and Dietterich (ICLR 2019, section 4), in percent of a baseline's.

A corruption's error is summed over severities and divided by that of the baseline; the mean over corruptions of these
ratios is the mCE. Errors are means over the records given, which are of finished runs. The result is NaN where one side
has no records, where there are no corruptions, or where the baseline's error on one of them is not above 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normbench.runs.record import Record

Accuracies = Callable[[Record], dict[str, list[float]]]  # of a run: corruption -> accuracy at each severity


def mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """The mean corruption error over the corruptions `names`."""
    return _mean_ratio(_errors(own, names).sum(1), _errors(baseline, names).sum(1))


def relative_mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """The same of errors less the error on clean images, on both sides: what the corruption adds."""
    added = [_errors(records, names) - _clean_error(records) for records in (own, baseline)]
    return _mean_ratio(added[0].sum(1), added[1].sum(1))


def batch_mce(own: list[Record], baseline: list[Record], names: list[str]) -> float:
    """The mean corruption error with statistics of the test batches, relative to the baseline without them.

    Only the runs count that were scored with such statistics.
    """
    adapted = [record for record in own if "batch_statistics" in record.metrics]
    errors = _errors(adapted, names, lambda record: record.metrics["batch_statistics"]["corruption_accuracy"])
    return _mean_ratio(errors.sum(1), _errors(baseline, names).sum(1))


def _plain(record: Record) -> dict[str, list[float]]:
    return record.metrics["corruption_accuracy"]


def _errors(records: list[Record], names: list[str], accuracies: Accuracies = _plain) -> np.ndarray:
    """(corruptions, severities), mean over the runs; (0, 0) where there are no runs or no corruptions."""
    if not records or not names:
        return np.empty((0, 0))
    return 1 - np.mean([[accuracies(record)[name] for name in names] for record in records], axis=0)


def _clean_error(records: list[Record]) -> float:
    """The mean over the runs; NaN where there are none."""
    return 1 - float(np.mean([record.metrics["clean_accuracy"] for record in records])) if records else math.nan


def _mean_ratio(own: np.ndarray, reference: np.ndarray) -> float:
    """In percent, of the errors of each corruption; NaN where the ratio has no value."""
    if not len(own) or not len(reference) or not (reference > 0).all():
        return math.nan
    return 100 * float((own / reference).mean())
