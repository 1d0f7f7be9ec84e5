"""Reads the records of the suite from build/scores, and checks that they fit the settings of params.yaml."""

from __future__ import annotations

from pathlib import Path

from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.means import Runs, finished
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system import layout
from normbench.system.errors import UserError

STAGES = {Kind.CLASSIFICATION: "evaluate", Kind.GAN: "fid"}  # the stages that write the records of build/scores


def read(suite: Suite, kind: Kind) -> Runs:
    """Returns the records of the suite's runs of a kind. Raises UserError if one is missing."""
    tasks, variants = suite.of_kind(kind)
    return {
        (task, variant): [read_one(kind, task, variant, seed) for seed in suite.seeds]
        for task in tasks
        for variant in variants
    }


def read_one(kind: Kind, task: str, variant: str, seed: int) -> Record:
    """Returns the record of a run. Raises UserError, with the command that writes it, if it is missing or not valid."""
    path = place(kind, task, variant, seed)
    if not path.is_file():
        raise UserError(
            f"{path}: no such record, but the suite has that run; write it with `{command(kind, task, variant)}`"
        )
    try:
        return Record.read(path)
    except UserError as error:
        raise UserError(f"{error}; write it again with `{command(kind, task, variant)}`") from None


def check_corruptions(runs: Runs, chosen: Corruptions) -> None:
    """Raises UserError if a record was scored on other corruptions or severities than params.yaml has.

    Such a record is left over from an earlier evaluation.
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
    """Returns the path of a run's record."""
    return layout.SCORES / kind / task / variant / f"{seed}.json"


def command(kind: Kind, task: str, variant: str) -> str:
    """Returns the command that writes the records of a task and variant."""
    return f"python -m stages.{STAGES[kind]} --task {task} --variant {variant}"
