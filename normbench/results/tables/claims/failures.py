"""Evidence from how runs ended."""

from __future__ import annotations

from collections.abc import Iterator

from normbench.comparison.verdicts import FEWEST
from normbench.results.tables.claims.declared import NoFailures, Tasks
from normbench.results.tables.claims.finding import Finding, Says, counted
from normbench.results.tables.claims.measured import Measured
from normbench.runs.run import Kind


def failures(evidence: NoFailures, tasks: Tasks, measured: Measured) -> Iterator[Finding]:
    """Yields a finding for each variant; a few runs that finished say nothing."""
    for task, variant in measured.cells(Kind.CLASSIFICATION, tasks, evidence.of):
        (row,) = measured.rows("leaderboard", task=task, variant=variant)
        runs, failed = row["runs"], row["failed"]
        if not runs:
            continue
        text = f"{task}: {failed} of {counted(runs, 'run')} of {variant} failed"
        if failed or runs >= FEWEST:
            yield Finding(task, Says.AGAINST if failed else Says.FOR, text)
        else:
            yield Finding(task, Says.NEITHER, f"{text}: no verdict")
