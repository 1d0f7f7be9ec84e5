"""Paired differences against closed forms, other implementations, and simulations with known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from normbench.comparison import permutation
from normbench.comparison.paired import LEVEL, interval, paired
from tests.comparison.simulated import Truth

TABLES = 1_000
# Effects of seeds and examples; `benchmarks/coverage.py` has more.
TRUTHS = {
    "some": Truth(),
    "large": Truth((0.7, 0.7), example=0.5, seed=0.5),
}


def test_scores_of_runs_are_compared_by_the_paired_t_test() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 5))
    found, expected = paired(first, second), stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.examples == 0


def test_one_example_is_a_score_of_the_run() -> None:
    values = np.array([[1.0], [0.0], [0.5]])
    assert paired(values, np.zeros_like(values)).p == pytest.approx(paired(values[:, 0], np.zeros(3)).p, rel=1e-12)


def test_the_error_is_that_of_the_analysis_of_variance() -> None:
    """The mean squares are those of statsmodels, for a crossed design with one value a cell."""
    first, second = Truth((0.8, 0.6)).draw(4, 25, np.random.default_rng(3))
    cells = [(seed, example, (first - second)[seed, example]) for seed, example in np.ndindex(4, 25)]
    frame = pd.DataFrame(cells, columns=["seed", "example", "value"])
    table = anova_lm(ols("value ~ C(seed) + C(example)", frame).fit())
    seeds, examples, rest = (table["sum_sq"] / table["df"]).to_list()
    variance = examples + max(seeds - rest, 0)
    freedom = variance**2 / (seeds**2 / 3 + examples**2 / 24)
    found = paired(first, second)
    assert found.error == pytest.approx(math.sqrt(variance / 100), rel=1e-9)
    assert found.freedom == pytest.approx(max(freedom, 3), rel=1e-9)
    assert found.high - found.mean == pytest.approx(stats.t.isf(0.025, found.freedom) * found.error, rel=1e-9)


def test_equal_outcomes_do_not_differ() -> None:
    same = np.ones((3, 10))
    found = paired(same, same)
    assert (found.mean, found.error, found.low, found.high, found.p) == (0, 0, 0, 0, 1)
    assert permutation.of_examples(same - same) == permutation.of_seeds(np.zeros(3)) == 1
    assert found.smallest_effect() == pytest.approx(1 / 30)


def test_outcomes_that_always_differ_equally_are_certain() -> None:
    found = paired(np.ones((3, 50)), np.zeros((3, 50)))
    assert (found.mean, found.low, found.high, found.p) == (1, 1, 1, 0)


@pytest.mark.parametrize("shapes", [((1, 4), (1, 4)), ((3, 4), (3, 5)), ((2, 2, 2), (2, 2, 2)), ((), ())])
def test_shapes_that_cannot_be_paired(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least two seeds"):
        paired(*map(np.zeros, shapes))


def test_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        paired(np.array([1.0, math.nan]), np.zeros(2))


def test_the_interval_of_a_mean_is_that_of_the_t_test() -> None:
    values = np.array([0.91, 0.93, 0.9])
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval(values) == pytest.approx((low, high), rel=1e-12)
    assert all(map(math.isnan, interval(values[:1])))


def test_exchanged_seeds_are_all_tried() -> None:
    generator = np.random.default_rng(4)
    for seeds in (2, 3, 6):
        values = generator.normal(0.5, 1, seeds)
        sums = [
            abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((1, -1), repeat=seeds)
        ]
        expected = np.mean([total >= abs(values.sum()) - 1e-12 for total in sums])
        assert permutation.of_seeds(values) == pytest.approx(expected)
    assert permutation.of_seeds(np.ones(3)) == 0.25


def test_many_exchanged_seeds_are_drawn() -> None:
    values = np.random.default_rng(5).normal(0.4, 1, 14)
    signs = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    assert permutation.of_seeds(values) == pytest.approx(exact, abs=0.03)


def test_exchanged_examples_have_the_exact_distribution() -> None:
    """Against all signs of twelve examples, to the error of 2,000 draws."""
    generator = np.random.default_rng(6)
    for _ in range(5):
        values = generator.integers(-1, 2, (3, 12)).astype(float)
        signs = 1 - 2 * ((np.arange(2**12)[:, None] >> np.arange(12)) & 1)
        exact = (np.abs(signs @ values.sum(0)) >= abs(values.sum()) - 1e-9).mean()
        assert permutation.of_examples(values) == pytest.approx(exact, abs=0.04)


def test_p_values_of_permutations_are_repeatable() -> None:
    values = np.random.default_rng(7).normal(0.1, 1, (3, 300))
    assert permutation.of_examples(values) == permutation.of_examples(values)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("truth", TRUTHS)
def test_intervals_cover_and_null_tables_are_left_alone(truth: str, seeds: int) -> None:
    """1,000 tables of two variants that do not differ: 5 % false positives, within 3 to 7 %, and the same coverage."""
    generator, chosen = np.random.default_rng(seeds), TRUTHS[truth]
    found = [paired(*chosen.draw(seeds, 359, generator)) for _ in range(TABLES)]
    assert 0.03 <= np.mean([each.p < LEVEL for each in found]) <= 0.07
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_a_difference(seeds: int) -> None:
    truth, generator = Truth((0.93, 0.9)), np.random.default_rng(40 + seeds)
    found = [paired(*truth.draw(seeds, 359, generator)) for _ in range(TABLES)]
    assert 0.93 <= np.mean([each.low <= truth.difference <= each.high for each in found]) <= 0.97
    assert np.mean([each.mean for each in found]) == pytest.approx(truth.difference, abs=0.001)


def test_the_smallest_effect_is_found_as_often_as_it_says() -> None:
    """Two variants that differ by the median smallest effect of tables like these: 80 % of the tables see it."""
    seeds, generator = 10, np.random.default_rng(8)
    null = [paired(*Truth((0.9, 0.9)).draw(seeds, 359, generator)).smallest_effect() for _ in range(200)]
    effect = float(np.median(null))
    truth = Truth((0.9 + effect / 2, 0.9 - effect / 2))
    seen = [paired(*truth.draw(seeds, 359, generator)).p < LEVEL for _ in range(TABLES)]
    assert 0.74 <= np.mean(seen) <= 0.86


def test_the_strict_p_value_holds_far_below_five_percent() -> None:
    """10,000 tables of three seeds with large effects: at 1 %, it finds at most 1 %, and Student's t more than 2 %."""
    generator, truth = np.random.default_rng(11), Truth((0.7, 0.7), seed=0.5)
    found = [paired(*truth.draw(3, 100, generator)) for _ in range(10_000)]
    assert np.mean([each.strict_p < 0.01 for each in found]) < 0.0125
    assert np.mean([each.p < 0.01 for each in found]) > 0.02


def test_the_generalized_p_value_is_the_mean_over_variances() -> None:
    """Against 400,000 draws of the chi-squared variable."""
    found = paired(*Truth((0.8, 0.7)).draw(3, 60, np.random.default_rng(12)))
    squares = found.squares
    assert squares is not None
    drawn = np.random.default_rng(13).chisquare(2, 400_000)
    variance = squares.of_examples + np.maximum(squares.of_seeds * 2 / drawn - squares.rest, 0)
    expected = (2 * stats.norm.sf(abs(found.mean) / np.sqrt(variance / 180))).mean()
    assert squares.generalized_p(found.mean) == pytest.approx(expected, rel=0.01)
    edge = squares.significant(0.05)
    assert squares.generalized_p(edge) == pytest.approx(0.05, rel=1e-6)
    assert squares.generalized_p(0.99 * edge) > 0.05 > squares.generalized_p(1.01 * edge)
