"""How variants stand to each other, by the verdicts of comparisons.csv."""

from __future__ import annotations

import math
from collections.abc import Iterable

from normbench.comparison.verdicts import Verdict
from normbench.results.tables.table import Row


class Standing:
    """The verdicts of all pairs.

    rows: those of comparisons.csv, one for each task, measure and pair; a pair is there in one order, and stands for
    the other as well.
    """

    def __init__(self, rows: Iterable[Row]):
        self._rows = {(row["task"], row["measure"], frozenset((row["variant"], row["other"]))): row for row in rows}

    def of(self, task: str, measure: str, variant: str, other: str) -> Verdict | None:
        """Returns the verdict on a variant against another one; None if there is none."""
        row = self._rows.get((task, measure, frozenset((variant, other))))
        if row is None or not row["verdict"]:
            return None
        found = Verdict(row["verdict"])
        return found if row["variant"] == variant else found.reversed()

    def smallest_effect(self, task: str, measure: str, variant: str, other: str) -> float:
        """Returns the smallest difference that the comparison of two variants could have shown; NaN without one."""
        row = self._rows.get((task, measure, frozenset((variant, other))))
        return math.nan if row is None else row["smallest_effect"]

    def leaders(self, rows: list[Row], column: str, measure: str, highest: bool = True) -> set[tuple[str, str]]:
        """Returns task and variant of those that are best in a column of a table, or indistinguishable from the best.

        Only variants of one task are compared that are not tuned, or tuned by as many trials. There is none where the
        best has no verdict against any other, as with fewer than three seeds. highest: whether high values are good.
        """
        alike: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            if not math.isnan(row[column]):
                alike.setdefault((row["task"], row.get("tuned", 0)), []).append(row)
        found = set()
        for (task, _), group in alike.items():
            best = (max if highest else min)(group, key=lambda row: row[column])["variant"]
            verdicts = {row["variant"]: self.of(task, measure, row["variant"], best) for row in group}
            if any(verdict is not None for verdict in verdicts.values()):
                equal = [name for name, verdict in verdicts.items() if verdict is Verdict.INDISTINGUISHABLE]
                found |= {(task, name) for name in (best, *equal)}
        return found
