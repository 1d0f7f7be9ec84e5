"""Reads the records of the suite from build/scores, and checks that they were scored as params.yaml says."""

from __future__ import annotations

from pathlib import Path

from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.means import Runs, finished
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system import layout
from normbench.system.errors import UserError

STAGES = {Kind.CLASSIFICATION: "evaluate", Kind.GAN: "fid"}  # that write the records of build/scores


def read(suite: Suite, kind: Kind) -> Runs:
    """The records of a kind; other files in build/scores are not read. Raises UserError where a record is missing."""
    tasks, variants = suite.of_kind(kind)
    return {
        (task, variant): [read_one(kind, task, variant, seed) for seed in suite.seeds]
        for task in tasks
        for variant in variants
    }


def read_one(kind: Kind, task: str, variant: str, seed: int) -> Record:
    """The record of a run. Raises UserError where there is none, with the command that writes it."""
    path = place(kind, task, variant, seed)
    if not path.is_file():
        raise UserError(
            f"{path}: no such record, but the suite has that run; write it with `{command(kind, task, variant)}`"
        )
    return Record.read(path)


def check_corruptions(runs: Runs, chosen: Corruptions) -> None:
    """Raises UserError for a record that was scored on other corruptions than params.yaml has.

    Such a record is left from an earlier evaluation.
    """
    for (task, variant), records in runs.items():
        for record in finished(records):
            found = record.metrics.get("corruption_accuracy", {})
            scored = record.provenance.corrupted
            severities = scored.severities if scored else []
            if set(found) != set(chosen.names) or severities != chosen.severities:
                path = place(Kind.CLASSIFICATION, task, variant, record.seed)
                raise UserError(
                    f"{path}: evaluated on {len(found)} corruptions at severities {severities}, but params.yaml has "
                    f"{len(chosen.names)} at {chosen.severities}; run "
                    f"`{command(Kind.CLASSIFICATION, task, variant)}` again"
                )


def place(kind: Kind, task: str, variant: str, seed: int) -> Path:
    """Where the record of a run lies."""
    return layout.SCORES / kind / task / variant / f"{seed}.json"


def command(kind: Kind, task: str, variant: str) -> str:
    """The command that writes the records of a task and variant."""
    return f"python -m stages.{STAGES[kind]} --task {task} --variant {variant}"
