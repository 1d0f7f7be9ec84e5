"""Evidence from costs: memory and parameters of results/leaderboard.csv, and the speeds of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from normbench.comparison.paired import LEVEL
from normbench.comparison.verdicts import FEWEST
from normbench.results.tables.claims.declared import Cost, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.costs import costed, incomparable
from normbench.results.tables.reasons import is_empty
from normbench.runs.run import Kind

SPEED = "images_per_second"
NAMES = {"peak_memory_mib": "the memory", "parameters": "the parameters", SPEED: "the speed"}


def costs(evidence: Cost, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each pair of variants."""
    for task, variant, other in measured.pairs(Kind.CLASSIFICATION, tasks, evidence.of, evidence.against):
        if evidence.column == SPEED:
            yield _speed(evidence, measured, task, variant, other)
            continue
        (ours,), (others,) = (measured.rows("leaderboard", task=task, variant=each) for each in (variant, other))
        if is_empty(ours[evidence.column]) or is_empty(others[evidence.column]):
            continue  # no record of a variant can be used
        ratio = ours[evidence.column] / others[evidence.column]
        text = f"{task}: {variant} has {ratio:.2f} times {NAMES[evidence.column]} of {other}"
        yield Finding(task, _says(ratio, ratio, evidence), text)


def _speed(evidence: Cost, measured: Measured, task: str, variant: str, other: str) -> Finding:
    """Compares the speeds of runs that were timed under like conditions."""
    own, reference = (costed(measured.runs[task, each]) for each in (variant, other))
    why = incomparable(own, reference)
    if why:
        return Finding(task, Says.NEITHER, f"{task}: {variant} against {other}: {why}")
    ours, others = (
        np.log([record.cost.images_per_second for record in records if record.cost.images_per_second is not None])
        for records in (own, reference)
    )
    timed = min(len(ours), len(others))
    if timed < FEWEST:
        text = f"{task}: {variant} against {other}: {counted(timed, 'run')} timed: no verdict"
        return Finding(task, Says.NEITHER, text)
    low, ratio, high = _ratio(ours, others)
    numbers = f"{ratio:.2f} times [{low:.2f}, {high:.2f}] {NAMES[SPEED]} of {other}"
    return Finding(task, _says(low, high, evidence), f"{task}: {variant} has {numbers}, {counted(timed)}")


def _ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Returns the ratio of geometric means, between the ends of its 95 % interval, by Welch's t on logarithms.

    first, second: the logarithms. Those of one seed have nothing in common, since its runs ran at different times.
    """
    mean = float(first.mean() - second.mean())
    if first.std() == second.std() == 0:
        return math.exp(mean), math.exp(mean), math.exp(mean)
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(1 - LEVEL)
    return math.exp(found.low), math.exp(mean), math.exp(found.high)


def _says(low: float, high: float, evidence: Cost) -> Says:
    """Returns what a ratio between low and high says: whether all of it is within the limit, or all of it beyond."""
    least, most = evidence.at_least or 0.0, math.inf if evidence.at_most is None else evidence.at_most
    if least <= low and high <= most:
        return Says.FOR
    return Says.AGAINST if high < least or low > most else Says.NEITHER
