"""The table across tasks: interquartile mean, probability of improvement and average rank of each variant."""

from __future__ import annotations

import math

import numpy as np

from normbench.comparison import across
from normbench.results.tables.means import Runs, finished, mean
from normbench.results.tables.table import PLAIN, REAL, SHARE, Row, Table

SHARES = ("iqm", "iqm_low", "iqm_high", "improvement", "improvement_low", "improvement_high")
COLUMNS = {"variant": PLAIN, "tasks": PLAIN} | dict.fromkeys(SHARES, SHARE)
COLUMNS |= {"average_rank": REAL, "critical_difference": REAL}


def overall_table(runs: Runs, baseline: str | None) -> Table:
    """Returns a row for each variant of which every run of at least two tasks finished; the best rank comes first.

    Scores are clean accuracies. A variant that failed in a task has no row, since a mean over its other tasks could not
    be compared. improvement: the probability that a run is better than one of the baseline in the same task.
    """
    tasks = list(dict.fromkeys(task for task, _ in runs))
    variants = [
        variant
        for variant in dict.fromkeys(variant for _, variant in runs)
        if all(runs[task, variant] and finished(runs[task, variant]) == runs[task, variant] for task in tasks)
    ]
    scores = {
        name: [np.array([r.metrics["clean_accuracy"] for r in runs[task, name]]) for task in tasks] for name in variants
    }
    equal = len({len(each) for of in scores.values() for each in of}) == 1
    if len(tasks) < 2 or len(variants) < 2 or not equal:
        return Table(COLUMNS, [])
    stacked = {name: np.stack(each) for name, each in scores.items()}
    ranks = across.average_ranks(
        np.array([[mean(stacked[name][place]) for name in variants] for place in range(len(tasks))])
    )
    critical = across.critical_difference(len(tasks), len(variants))
    rows = [
        _row(name, stacked, baseline)
        | {"tasks": len(tasks), "average_rank": float(rank), "critical_difference": critical}
        for name, rank in zip(variants, ranks, strict=True)
    ]
    return Table(COLUMNS, sorted(rows, key=lambda row: row["average_rank"]))


def _row(name: str, scores: dict[str, np.ndarray], baseline: str | None) -> Row:
    own = scores[name]
    low, high = across.stratified(across.interquartile_mean, own)
    row = {"variant": name, "iqm": across.interquartile_mean(own), "iqm_low": low, "iqm_high": high}
    if baseline not in scores or name == baseline:
        return row | dict.fromkeys(("improvement", "improvement_low", "improvement_high"), math.nan)
    low, high = across.stratified(across.probability_of_improvement, own, scores[baseline])
    improvement = across.probability_of_improvement(own, scores[baseline])
    return row | {"improvement": improvement, "improvement_low": low, "improvement_high": high}
