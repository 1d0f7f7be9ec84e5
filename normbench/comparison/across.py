"""Summaries across tasks: interquartile mean, probability of improvement, performance profile, ranks.

The first three are defined as by Agarwal et al. (NeurIPS 2021, arXiv 2108.13264) in their package rliable; the ranks
with their critical difference as by Demsar (JMLR 7 (2006), 1-30). Scores are (tasks, runs), higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

RESAMPLES = 2_000
LEVEL = 0.05


def interquartile_mean(scores: np.ndarray) -> float:
    """Returns the mean of the middle half of all runs of all tasks."""
    return float(stats.trim_mean(np.asarray(scores, float), 0.25, axis=None))


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the probability that a run of `first` beats one of `second` in the same task, as a mean over the tasks.

    Equal scores count half.
    """
    pairs = np.sign(np.asarray(first, float)[:, :, None] - np.asarray(second, float)[:, None, :])
    return float(((pairs + 1) / 2).mean((1, 2)).mean())


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns for each threshold the share of runs, over all tasks, whose score is above it."""
    return (np.asarray(scores, float).ravel()[None, :] > np.asarray(thresholds, float)[:, None]).mean(1)


def stratified(statistic: Callable[..., float], *scores: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a statistic when the runs of each task are drawn again.

    scores: the arguments of the statistic. The draws are always the same.
    """
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = [np.take_along_axis(each, generator.integers(each.shape[1], size=each.shape), 1) for each in scores]
        found.append(statistic(*drawn))
    low, high = np.quantile(found, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def average_ranks(means: np.ndarray) -> np.ndarray:
    """Returns the rank of each variant, (variants,), as a mean over tasks; 1 is best and ties share their ranks.

    means: the mean scores, (tasks, variants).
    """
    return stats.rankdata(-np.asarray(means, float), axis=1).mean(0)


def critical_difference(tasks: int, variants: int) -> float:
    """Returns by how much average ranks must differ for Nemenyi's test at 5 %; NaN with fewer than two of either."""
    if tasks < 2 or variants < 2:
        return math.nan
    quantile = float(stats.studentized_range.ppf(1 - LEVEL, variants, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(variants * (variants + 1) / (6 * tasks))
