"""The comparisons of the variants of a task, as comparisons.csv has them, for the marks of tables and for scripts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.results.tables.reasons import MISSING

OPPOSITE = {"better": "worse", "worse": "better"}
FIRST_REASON = ord("a")  # the letter of the first reason, for scripts
LETTERS = {"better": "b", "worse": "w", "indistinguishable": "i", "": "-"}  # of verdicts, for scripts
NUMBERS = ["difference", "low", "high", "p_holm", "smallest_effect"]
COLUMNS = ["measure", "variant", "other", *NUMBERS, "verdict", MISSING]


@dataclass(frozen=True)
class Comparison:
    """What is known of a variant against another.

    difference, low, high: of the variant less the other, with the 95 % interval. p: after Holm's correction. verdict:
    better, worse, indistinguishable, or empty. missing: why there is no verdict. Unknown numbers are NaN.
    """

    difference: float
    low: float
    high: float
    p: float
    smallest_effect: float
    verdict: str
    missing: str

    def reversed(self) -> Comparison:
        """Returns what is known of the other against the variant."""
        verdict = OPPOSITE.get(self.verdict, self.verdict)
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low, verdict=verdict)


class Verdicts:
    """The comparisons of one task. measures: those that were compared, in the order of the table."""

    def __init__(self, table: pd.DataFrame):
        if not len(table):
            table = pd.DataFrame(columns=COLUMNS)
        self.measures: list[str] = list(dict.fromkeys(table["measure"]))
        self.seeds = int(table["seeds"].max()) if len(table) else 0
        texts = table[["measure", "variant", "other"]].itertuples(index=False, name=None)
        numbers = table[NUMBERS].astype(float).itertuples(index=False, name=None)
        words = table[["verdict", MISSING]].astype(object).fillna("").astype(str).itertuples(index=False, name=None)
        self.found = {key: Comparison(*values, *rest) for key, values, rest in zip(texts, numbers, words, strict=True)}

    def of(self, measure: str, variant: str, other: str) -> Comparison | None:
        """Returns the comparison of a variant with another in a measure, whichever of the two the table has first."""
        found = self.found.get((measure, variant, other))
        if found is not None:
            return found
        mirrored = self.found.get((measure, other, variant))
        return None if mirrored is None else mirrored.reversed()

    def verdict(self, measure: str, variant: str, other: str | None) -> str:
        """Returns the verdict on a variant against another; an empty string if there is none."""
        found = None if other is None else self.of(measure, variant, other)
        return "" if found is None else found.verdict

    def leaders(self, measure: str, means: Mapping[str, float], highest: bool) -> set[str]:
        """Returns the variant with the best mean and those that are indistinguishable from it.

        The result is empty where nothing was judged. means: of the variants that are to be ranked. highest: whether
        high values are good.
        """
        known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        if len(known) < 2:
            return set()
        best = (max if highest else min)(known, key=lambda name: known[name])
        found = {name: self.verdict(measure, name, best) for name in known if name != best}
        alike = {name for name, verdict in found.items() if verdict == "indistinguishable"}
        return {best, *alike} if any(found.values()) else set()

    def smallest_effects(self, measure: str, baseline: str | None) -> list[float]:
        """Returns the smallest effects that the comparisons with the baseline could have shown, in rising order."""
        return sorted(
            found.smallest_effect
            for (of, variant, other), found in self.found.items()
            if of == measure and baseline in (variant, other) and not math.isnan(found.smallest_effect)
        )

    def data(self, measure: str, variants: Iterable[str], factor: float) -> dict[str, Any]:
        """Returns the comparisons of all pairs of variants in a measure for scripts.

        Each entry is about the pairs (first, second) in the order of `itertools.combinations`, of which a large suite
        has many, so that it says no more than what is shown: differences are hundredths of the unit of the page, and
        verdicts and reasons are strings of one letter for each pair. factor: from the table's values to the page's.
        """
        pairs = [self.of(measure, first, second) for first, second in itertools.combinations(variants, 2)]
        kept = [UNKNOWN if pair is None else pair for pair in pairs]
        reasons = list(dict.fromkeys(pair.missing for pair in kept))
        return {
            "difference": [hundredths(factor * pair.difference) for pair in kept],
            "low": [hundredths(factor * pair.low) for pair in kept],
            "high": [hundredths(factor * pair.high) for pair in kept],
            "p": [rounded(pair.p, 2) for pair in kept],
            "smallest": [hundredths(factor * pair.smallest_effect) for pair in kept],
            "verdict": "".join(LETTERS.get(pair.verdict, "-") for pair in kept),
            "missing": "".join(chr(FIRST_REASON + reasons.index(pair.missing)) for pair in kept),
            "reasons": reasons,
        }


UNKNOWN = Comparison(math.nan, math.nan, math.nan, math.nan, math.nan, "", "not compared")


def rounded(value: float, digits: int = 4) -> float | None:
    """Returns a number with the digits that are shown at most; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(f"{value:.{digits}g}")


def hundredths(value: float) -> int | None:
    """Returns a number in hundredths, rounded as where it is shown with two decimals; None for NaN."""
    return None if math.isnan(value) else round(100 * float(f"{value:.2f}"))
