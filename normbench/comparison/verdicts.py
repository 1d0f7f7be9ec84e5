"""Verdicts over the comparisons of one table: better, worse or indistinguishable, with the error of the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from normbench.comparison.paired import LEVEL, Difference

FEWEST = 3  # seeds: with fewer, there is no verdict


class Verdict(StrEnum):
    """What a comparison says of its first variant."""

    BETTER = "better"
    WORSE = "worse"
    INDISTINGUISHABLE = "indistinguishable"

    def reversed(self) -> Verdict:
        """The verdict on the second variant."""
        return {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}.get(self, self)


@dataclass(frozen=True)
class Judged:
    """A comparison with its verdict.

    adjusted: the p-value by Holm over the table. smallest_effect: see `Difference.smallest_effect`, at the level that
    Holm's first step has, so that it could have been shown in this table.
    """

    difference: Difference
    adjusted: float
    verdict: Verdict
    smallest_effect: float


def judged(differences: Sequence[Difference], lower_is_better: bool = False) -> list[Judged]:
    """Returns the comparisons of one table with their verdicts.

    The probability that a table of variants that do not differ has any other verdict than indistinguishable is at most
    5 % (Holm, Scandinavian Journal of Statistics 6 (1979), 65-70). Several comparisons are made by `strict_p`, as their
    adjustment looks far below 5 %. Raises ValueError for fewer than 3 seeds.
    """
    if any(each.seeds < FEWEST for each in differences):
        raise ValueError(f"a verdict needs {FEWEST} seeds")
    if not differences:
        return []
    strict = len(differences) > 1
    adjusted = holm(np.array([each.strict_p if strict else each.p for each in differences]))
    level = LEVEL / len(differences)
    return [
        Judged(each, float(p), _verdict(each, float(p), lower_is_better), each.smallest_effect(level, strict))
        for each, p in zip(differences, adjusted, strict=True)
    ]


def holm(p: np.ndarray) -> np.ndarray:
    """Returns p-values, (tests,), adjusted for being tested together.

    statsmodels has the same function, but its import and its collections of garbage take seconds of each `dvc repro`.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _verdict(difference: Difference, p: float, lower_is_better: bool) -> Verdict:
    if p >= LEVEL:
        return Verdict.INDISTINGUISHABLE
    return Verdict.BETTER if (difference.mean < 0) is lower_is_better else Verdict.WORSE
