"""Summaries across tasks against closed forms and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normbench.comparison import across


def test_the_interquartile_mean_drops_a_quarter_of_the_runs_on_each_side() -> None:
    scores = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 100.0]])
    assert across.interquartile_mean(scores) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_the_probability_of_improvement_counts_pairs() -> None:
    first, second = np.array([[1.0, 3.0], [5.0, 5.0]]), np.array([[2.0, 2.0], [5.0, 4.0]])
    # Task 1: of four pairs, two are won. Task 2: two are won and two are equal.
    assert across.probability_of_improvement(first, second) == pytest.approx((0.5 + 0.75) / 2)
    assert across.probability_of_improvement(second, first) == pytest.approx(1 - (0.5 + 0.75) / 2)


def test_the_performance_profile_counts_runs_above() -> None:
    scores = np.array([[0.1, 0.5], [0.9, 0.5]])
    assert across.performance_profile(scores, np.array([0.0, 0.1, 0.5, 0.95])).tolist() == [1.0, 0.75, 0.25, 0.0]


def test_the_interval_covers() -> None:
    """Means of normal scores, drawn again within tasks: 95 % of the intervals, within 91 and 97 %, cover the truth."""
    generator, covered = np.random.default_rng(2), 0
    for _ in range(60):
        scores = generator.normal([[0.0], [10.0]], 1, (2, 30))
        low, high = across.stratified(np.mean, scores)
        covered += low <= 5 <= high
    assert covered >= 52
    assert across.stratified(np.mean, scores) == (low, high)


def test_tasks_are_drawn_within_themselves() -> None:
    """Without spread inside the tasks there is none of the statistic, however much the tasks differ."""
    scores = np.array([[1.0] * 5, [7.0] * 5])
    assert across.stratified(across.interquartile_mean, scores) == (4.0, 4.0)


def test_ranks() -> None:
    means = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.1]])
    assert across.average_ranks(means).tolist() == [1.25, 1.75, 3.0]


def test_the_critical_difference_has_the_published_quantiles() -> None:
    """Demsar (2006), Table 5 (a), for 2 to 10 classifiers at 5 %."""
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for variants, quantile in enumerate(published, 2):
        expected = quantile * math.sqrt(variants * (variants + 1) / (6 * 14))
        assert across.critical_difference(14, variants) == pytest.approx(expected, rel=1e-3)
    assert math.isnan(across.critical_difference(1, 5))
    assert math.isnan(across.critical_difference(5, 1))
