"""Evidence from the bounds of layers in results/layers.csv."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normbench.results.tables.claims.declared import Bounds, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.reasons import is_empty
from normbench.runs.run import Kind

ROUNDING = 1e-5  # relative: norms are computed in float32


def bounds(evidence: Bounds, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each variant that has layers with a bound and an estimate."""
    for task, variant in measured.cells(Kind.CLASSIFICATION, tasks, evidence.of):
        rows = measured.rows("layers", task=task, variant=variant)
        known = [row for row in rows if not (is_empty(row["bound"]) or is_empty(row["estimate"]))]
        ratios = [row["bound"] / row["estimate"] for row in known if row["estimate"] > 0]
        if ratios:
            least, most = min(ratios), max(ratios)
            text = f"{least:.3f} to {most:.3f} times the estimate of the norm, median {np.median(ratios):.3f}"
            says = Says.FOR if least >= 1 - ROUNDING else Says.AGAINST
            yield Finding(task, says, f"{task}: {variant} {text}, {counted(len(ratios), 'layer')}")
