"""Verdicts of a table: Holm's adjustment by hand, their direction, and the error of whole tables."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from normbench.comparison.paired import Difference, paired
from normbench.comparison.verdicts import Verdict, holm, judged
from tests.comparison.simulated import Truth

PLAIN = Difference(0.1, 0.02, 10, 0.05, 0.15, 0.5, 3, 100)


def test_p_values_are_adjusted_over_the_table() -> None:
    """By hand: 0.01 x 3, then 0.02 x 2, then 0.04 x 1, each at least the one before."""
    found = judged([replace(PLAIN, p=p) for p in (0.04, 0.01, 0.02)])
    assert [each.adjusted for each in found] == pytest.approx([0.04, 0.03, 0.04])
    assert all(each.verdict is Verdict.BETTER for each in found)
    found = judged([replace(PLAIN, p=p) for p in (0.04, 0.03, 0.3)])
    assert all(each.verdict is Verdict.INDISTINGUISHABLE for each in found)


def test_the_adjustment_is_that_of_statsmodels() -> None:
    generator = np.random.default_rng(3)
    for count in (1, 2, 7, 40):
        p = np.concatenate([generator.random(count) ** 3, [0.01, 0.01]])
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)
    assert holm(np.zeros(0)).tolist() == []


@pytest.mark.parametrize("mean", [0.1, -0.1])
@pytest.mark.parametrize("lower_is_better", [False, True])
def test_the_direction(mean: float, lower_is_better: bool) -> None:
    verdict = judged([replace(PLAIN, mean=mean, p=0.001)], lower_is_better)[0].verdict
    assert verdict is (Verdict.BETTER if (mean > 0) is not lower_is_better else Verdict.WORSE)
    assert {verdict, verdict.reversed()} == {Verdict.BETTER, Verdict.WORSE}
    assert Verdict.INDISTINGUISHABLE.reversed() is Verdict.INDISTINGUISHABLE


def test_two_seeds_have_no_verdict() -> None:
    with pytest.raises(ValueError, match="needs 3 seeds"):
        judged([replace(PLAIN, seeds=2)])


def test_no_comparisons() -> None:
    assert judged([]) == []


def test_the_smallest_effect_grows_with_the_table() -> None:
    alone, three = judged([PLAIN])[0], judged([PLAIN] * 3)[0]
    assert alone.smallest_effect == PLAIN.smallest_effect(0.05)
    assert three.smallest_effect == PLAIN.smallest_effect(0.05 / 3) > alone.smallest_effect


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_tables_of_equal_variants_have_no_other_verdict(seeds: int) -> None:
    """Four variants that do not differ, with large effects of seeds: at most 5 % of the tables say otherwise.

    7 % of 200 simulated ones are allowed. With the p-values of Student's t it would be 14 % at 3 seeds.
    """
    generator, truth = np.random.default_rng(60 + seeds), Truth((0.7,) * 4, seed=0.5)
    wrong = 0
    for _ in range(200):
        outcomes = truth.draw(seeds, 359, generator)
        found = judged([paired(*each) for each in itertools.combinations(outcomes, 2)])
        wrong += any(each.verdict is not Verdict.INDISTINGUISHABLE for each in found)
    assert wrong / 200 <= 0.07


def test_a_clear_difference_is_seen() -> None:
    outcomes = Truth((0.95, 0.9, 0.8)).draw(5, 1_000, np.random.default_rng(9))
    found = judged([paired(*each) for each in itertools.combinations(outcomes, 2)])
    assert all(each.verdict is Verdict.BETTER for each in found)
