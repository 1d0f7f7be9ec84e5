"""Evidence from the spectra of the channels of convolutions in results/layers.csv."""

from __future__ import annotations

from collections.abc import Iterator

from normbench.results.tables.claims.declared import Isometry, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.reasons import is_empty
from normbench.runs.run import Kind


def isometry(evidence: Isometry, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each variant that has convolutions with measured spectra."""
    for task, variant in measured.cells(Kind.CLASSIFICATION, tasks, evidence.of):
        rows = measured.rows("layers", task=task, variant=variant)
        known = [row for row in rows if not is_empty(row["spectrum_low"])]
        if known:
            low, high = min(row["spectrum_low"] for row in known), max(row["spectrum_high"] for row in known)
            says = Says.FOR if max(1 - low, high - 1) <= evidence.within else Says.AGAINST
            text = f"{low:.3f} to {high:.3f} times a channel's mean over frequencies"
            yield Finding(task, says, f"{task}: {variant} {text}, {counted(len(known), 'layer')}")
