"""Evidence from the deconvolution filters of first layers in results/filters.csv."""

from __future__ import annotations

from collections.abc import Iterator

from normbench.results.tables.claims.declared import Filters, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.reasons import is_empty
from normbench.results.tables.table import Row
from normbench.runs.run import Kind

NOTHING = 0.1  # of the centre: a smaller sum of a filter is nothing beside it
CONVERGED = 15  # iterations, with fewer of which filters are too far from what they become
ENDS = ("before", "after")


def filters(evidence: Filters, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each variant with filters.

    They depend on images alone and not on seeds, so that one run is enough and there is no verdict.
    """
    judge = {"centre_surround": centre_surround, "sparser": sparser}[evidence.show]
    for task, variant in measured.cells(Kind.CLASSIFICATION, tasks, evidence.of):
        rows = measured.rows("filters", task=task, variant=variant)
        if rows:
            says, text = judge(rows)
            seeds = counted(len({row["seed"] for row in rows}))
            yield Finding(task, says, f"{task}: {variant} {text}, {seeds}")


def centre_surround(rows: list[Row]) -> tuple[Says, str]:
    """Whether filters have an opposite surround that makes up for the centre, at the most iterations measured."""
    most = max(row["iterations"] for row in rows)
    shown = [row for row in rows if row["iterations"] == most]
    highest, largest = max(row["ring"] for row in shown), max((row["sum"] for row in shown), key=abs)
    text = f"{highest:+.3f} of the centre beside it and {largest:+.3f} in all after {most} iterations"
    network = [row["ring"] for row in rows if row["iterations"] == row["own_iterations"] != most]
    if network:
        text += f" ({max(network):+.3f} beside it after the {rows[0]['own_iterations']} of the network)"
    if most < CONVERGED:
        return Says.NEITHER, f"{text}, of which {CONVERGED} are needed"
    if highest >= 0:
        return Says.AGAINST, text
    return Says.FOR if abs(largest) < NOTHING else Says.NEITHER, text


def sparser(rows: list[Row]) -> tuple[Says, str]:
    """Whether responses have both a higher kurtosis and more values near zero than pixels, as the network filters."""
    shown = [row for row in rows if row["iterations"] == row["own_iterations"]]
    if any(is_empty(row[f"{name}_{when}"]) for row in shown for name in ("kurtosis", "near_zero") for when in ENDS):
        return Says.NEITHER, "next to no variance"
    first = shown[0]
    kurtosis, near_zero = ([first[f"{name}_{when}"] for when in ENDS] for name in ("kurtosis", "near_zero"))
    text = f"excess kurtosis {kurtosis[0]:.2f} before and {kurtosis[1]:.2f} after"
    text += f", near zero {100 * near_zero[0]:.1f} % before and {100 * near_zero[1]:.1f} % after"
    text += f", {first['own_iterations']} iterations"
    higher = {row[f"{name}_after"] > row[f"{name}_before"] for row in shown for name in ("kurtosis", "near_zero")}
    return Says.NEITHER if len(higher) > 1 else Says.FOR if higher == {True} else Says.AGAINST, text
