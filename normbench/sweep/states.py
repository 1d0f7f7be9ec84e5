"""The state of each run of the suite: done, unfinished, stale (with the reasons) or missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from normbench.runs import store
from normbench.runs.contents import RECORD
from normbench.runs.record import Provenance, Record, TrainedRecord
from normbench.runs.run import UNITS, Kind, Run
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Variant
from normbench.system.errors import UserError


class State(StrEnum):
    """The state of a run.

    Stale: a run of the same task, variant and seed is finished, but something that shapes it has changed since then.
    """

    DONE = "done"
    UNFINISHED = "unfinished"
    STALE = "stale"
    MISSING = "missing"


@dataclass(frozen=True)
class Planned:
    """A run and its state.

    reasons: how the last finished run of the same name differs from this one. share: the part of the training that the
    newest checkpoint holds, 0..1.
    """

    run: Run
    state: State
    reasons: list[str] = field(default_factory=list)
    share: float = 0.0

    @property
    def position(self) -> str:
        """The position of an unfinished run's checkpoint, e.g. `epoch 2 of 5`."""
        steps = self.run.steps
        return f"{UNITS[self.run.kind]} {self.share * steps:.0f} of {steps}"


def of_runs(suite: list[Run]) -> list[Planned]:
    """Returns the state of each run."""
    before = finished_before(suite)
    return [of_run(run, before.get(run.name)) for run in suite]


def of_run(run: Run, before: Record | None) -> Planned:
    """Returns the state of one run.

    before: the record of the last finished run of this task, variant and seed, or None.
    """
    if store.done(run):
        return Planned(run, State.DONE)
    reasons = differences(before.provenance, run) if before is not None else []
    share = checkpointed(run)
    if share is not None:
        return Planned(run, State.UNFINISHED, reasons, share)
    return Planned(run, State.MISSING if before is None else State.STALE, reasons)


def finished_before(suite: list[Run]) -> dict[tuple[str, str, int], Record]:
    """Returns, for runs that are not done, the records of earlier finished runs by task, variant and seed.

    A record in the output of the stage comes first, then the newest record in the store. Unreadable records are left
    out.
    """
    wanted = {run.name: run for run in suite if not store.done(run)}
    found: dict[tuple[str, str, int], Record] = {}
    for there in store.all_finished() if wanted else []:
        record = store.record(there)
        if record.name not in wanted:
            continue
        other = found.get(record.name)
        if other is None or record.provenance.ended > other.provenance.ended:
            found[record.name] = record
    for name, run in wanted.items():
        linked = readable(run.linked / RECORD)
        if linked is not None:
            found[name] = linked
    return found


def readable(path: Path) -> Record | None:
    """Returns the record in a file; None if there is no file or it is not a record of this version."""
    try:
        return TrainedRecord.read(path)
    except (OSError, UserError):
        return None


# What params.yaml calls the code behind a digest.
REFERENCES: dict[str, Callable[[AnyTask, Variant], str]] = {
    "model_code": lambda task, variant: task.model,
    "method_code": lambda task, variant: variant.method,
    "loss_code": lambda task, variant: "training with a loss",
}


def differences(was: Provenance, run: Run) -> list[str]:
    """Returns how `run` differs from a finished run, in words: `recipe.epochs was 5, is 6`, `model code`."""
    found = []
    if was.dataset.fingerprint != run.bound.fingerprint:
        found.append(f"dataset {run.bound.name}: other content")
    for key in ("classes", "mean", "std"):
        old, new = getattr(was.dataset, key), getattr(run.bound, key)
        if old != new:
            found.append(f"dataset {run.bound.name}: {key} was {old!r}, is {new!r}")
    if was.dataset.reader_code != run.bound.reader_code:
        found.append("reading of streamed images")
    if was.code != run.code:
        found.append("training code")
    for before, now in ((was.task.identity(), run.task.identity()), (was.variant.identity(), run.variant.identity())):
        old_values, new_values = flat(before), flat(now)
        for key in [*new_values, *(key for key in old_values if key not in new_values)]:
            if old_values.get(key) == new_values.get(key):
                continue
            if key in REFERENCES:
                old, new = REFERENCES[key](was.task, was.variant), REFERENCES[key](run.task, run.variant)
                what = key.removesuffix("_code")
                found.append(f"{what} code" if old == new else f"{what} was {old!r}, is {new!r}")
            elif key not in old_values:
                found.append(f"{key} is new, {new_values[key]!r}")
            elif key not in new_values:
                found.append(f"{key} was {old_values[key]!r}, is gone")
            else:
                found.append(f"{key} was {old_values[key]!r}, is {new_values[key]!r}")
    return found or ["what a run's id is made of"]


def flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries: {"recipe": {"epochs": 5}} -> {"recipe.epochs": 5}."""
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= flat(item, f"{above}{key}.") if isinstance(item, dict) and item else {f"{above}{key}": item}
    return out


def checkpointed(run: Run) -> float | None:
    """Returns the part of the training, 0..1, that the newest readable checkpoint holds; None if there is none."""
    for path in reversed(store.checkpoints(run.id)):
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")["training"]
        except Exception:
            continue  # The run sets a damaged checkpoint aside when it continues.
        return state["step" if run.kind is Kind.GAN else "epoch"] / run.steps
    return None
