"""Evidence from the score `smoothness`: which of two variants has the lower number, in runs of the same seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from normbench.comparison.paired import Difference, paired
from normbench.comparison.verdicts import FEWEST, Judged, judged
from normbench.results.tables.claims.declared import Order, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted, would_have_shown
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.means import finished
from normbench.results.tables.smoothness import FEATURES, of_network
from normbench.runs.record import Record
from normbench.runs.run import Kind

FORM = ".3g"


@dataclass(frozen=True)
class Compared:
    """A pair of variants. text: its numbers. difference: None with too few seeds."""

    task: str
    text: str
    difference: Difference | None


def orders(evidence: Order, tasks: Tasks, measured: Measured) -> list[Finding]:
    """Returns a finding for each pair of variants that has the number. The verdicts of a claim hold together (Holm)."""
    found = []
    for task, variant, other in measured.pairs(Kind.CLASSIFICATION, tasks, evidence.of, evidence.against):
        first, second = (_numbers(measured.runs[task, each], evidence) for each in (variant, other))
        if first and second:
            found.append(_compared(f"{task}: {evidence.column} of {variant}", task, other, first, second))
    verdicts = iter(judged([each.difference for each in found if each.difference], evidence.expected == "lower"))
    return [_finding(each, next(verdicts) if each.difference else None) for each in found]


def _compared(about: str, task: str, other: str, first: dict[int, float], second: dict[int, float]) -> Compared:
    """first, second: a number for each seed."""
    seeds = [seed for seed in first if seed in second]
    if len(seeds) < FEWEST:
        return Compared(task, f"{about} against {other}, {counted(len(seeds))}", None)
    ours, others = (np.array([each[seed] for seed in seeds]) for each in (first, second))
    difference = paired(ours, others)
    between = f"{difference.mean:+z{FORM}} [{difference.low:z{FORM}}, {difference.high:z{FORM}}]"
    numbers = f"{ours.mean():.4g} against {others.mean():.4g} of {other}, {between}"
    return Compared(task, f"{about} {numbers}, {counted(len(seeds))}", difference)


def _finding(compared: Compared, found: Judged | None) -> Finding:
    if found is None:
        return Finding(compared.task, Says.NEITHER, f"{compared.text}: no verdict")
    says = Says.of(found.verdict)
    if says is not Says.NEITHER:
        verdict = "lower" if found.difference.mean < 0 else "higher"
    elif found.difference.error == 0:
        verdict = "equal in all runs"
    else:
        verdict = would_have_shown(found.smallest_effect, "", FORM)
    return Finding(compared.task, says, f"{compared.text}: {verdict}")


def _numbers(records: list[Record], evidence: Order) -> dict[int, float]:
    """Returns by seed the number of each finished run that has it."""
    return {
        record.seed: float(value)
        for record in finished(records)
        if (value := _number(record.metrics, evidence)) is not None
    }


def _number(metrics: dict[str, Any], evidence: Order) -> float | None:
    if evidence.when is None:
        return of_network(metrics["smoothness"]).get(evidence.column) if metrics.get("smoothness") else None
    blocks = (metrics.get("features") or {}).get(evidence.when)
    return blocks[-1][FEATURES[evidence.column]] if blocks else None
