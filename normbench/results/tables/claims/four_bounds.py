"""Evidence from the four bounds on each convolution in results/bounds.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from normbench.results.tables.claims.declared import FourBounds, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.reasons import is_empty
from normbench.results.tables.table import Row
from normbench.runs.run import Kind

FOUR = ("r", "s", "t", "u")


def four_bounds(evidence: FourBounds, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each variant that has convolutions. Kernels of one pixel, all bounds equal, do not count."""
    for task, variant in measured.cells(Kind.CLASSIFICATION, tasks, evidence.of):
        rows = measured.rows("bounds", task=task, variant=variant)
        known = [row for row in rows if not is_empty(row["r"]) and not str(row["kernel"]).startswith("1x1")]
        if known:
            says, text = each_least(known) if evidence.show == "each_least" else close(known, evidence.at_most)
            yield Finding(task, says, f"{task}: {variant} {text}, {counted(len(known), 'layer')}")


def each_least(rows: list[Row]) -> tuple[Says, str]:
    """Whether each of the four is the least one of some layer. That one is not shows nothing of other layers."""
    found = Counter(min(FOUR, key=row.__getitem__) for row in rows)
    text = ", ".join(f"{name.upper()} {found[name]}" for name in FOUR)
    return Says.FOR if len(found) == len(FOUR) else Says.NEITHER, f"least one by number of layers: {text}"


def close(rows: list[Row], at_most: float) -> tuple[Says, str]:
    """Whether the median of the least bound over the norm is within a limit."""
    ratios = [row["fantastic_four"] / row["zero_padded"] for row in rows]
    middle = float(np.median(ratios))
    text = f"{min(ratios):.3f} to {max(ratios):.3f} times the norm, median {middle:.3f}"
    return Says.FOR if middle <= at_most else Says.AGAINST, text
