"""Evidence from the paired comparisons of results/comparisons.csv."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from normbench.comparison.verdicts import Verdict
from normbench.results.tables.claims.declared import Comparison, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted, would_have_shown
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.reasons import MISSING, is_empty
from normbench.results.tables.table import Row

UNITS = {"fid": ("", 1.0)}  # of a measure, with the factor of its numbers; all others are accuracies


def comparisons(evidence: Comparison, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each pair of variants that has a row for the measure."""
    for task, variant, other in measured.pairs(evidence.runs, tasks, evidence.of, evidence.against):
        row = _compared(measured, evidence, task, variant, other)
        if row is not None:
            yield Finding(task, Says.of(row["verdict"]), _text(row, evidence.measure, variant, other))


def _compared(measured: Measured, evidence: Comparison, task: str, variant: str, other: str) -> Row | None:
    """Returns the comparison of a variant with another, whichever of them the table has first; None if it has none."""
    here: dict[str, Any] = {"kind": evidence.runs, "task": task, "measure": evidence.measure}
    for row in measured.rows("comparisons", variant=variant, other=other, **here):
        return row
    for row in measured.rows("comparisons", variant=other, other=variant, **here):
        verdict = Verdict(row["verdict"]).reversed() if row["verdict"] else ""
        return row | {"difference": -row["difference"], "low": -row["high"], "high": -row["low"], "verdict": verdict}
    return None


def _text(row: Row, measure: str, variant: str, other: str) -> str:
    why = row[MISSING].removeprefix("verdict: ")
    if is_empty(row["difference"]):
        return f"{row['task']}: {variant} against {other}: {why}"
    unit, factor = UNITS.get(measure, (" points", 100.0))
    difference, low, high, smallest = (factor * row[key] for key in ("difference", "low", "high", "smallest_effect"))
    between = "" if is_empty(row["low"]) else f" [{low:z.1f}, {high:z.1f}]"
    numbers = f"{variant} {difference:+z.1f}{unit}{between} against {other}"
    verdict = row["verdict"] or why
    if verdict == Verdict.INDISTINGUISHABLE:
        verdict = would_have_shown(smallest, unit, ".1f")
    return f"{row['task']}: {numbers}, {counted(row['seeds'])}: {verdict}"
