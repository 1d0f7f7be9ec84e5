"""The life of one run from its lock to its record: it is trained into the run store unless it is there already."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normbench.runs import finished, provenance, store, under_way
from normbench.runs.checkpoint import Checkpoints
from normbench.runs.contents import RECORD, contents, optional
from normbench.runs.images import Data
from normbench.runs.record import FORMAT, Cost, TrainedRecord, made, problem_of
from normbench.runs.run import Kind, Run, Status
from normbench.runs.trained import Trained
from normbench.system import files, preemption, ranks
from normbench.system.errors import UserError
from normbench.system.progress import Progress

# The module whose `train` trains a run of each kind. It is imported on use, as a stage needs only one of them.
TRAINERS = {
    Kind.CLASSIFICATION: "normbench.runs.classification",
    Kind.SEGMENTATION: "normbench.runs.segmentation",
    Kind.GAN: "normbench.runs.generation",
}

Trainer = Callable[[Run, Any, Checkpoints, Progress], Trained]


def trainer(kind: Kind) -> Trainer:
    """Returns the function that trains a run of a kind."""
    return importlib.import_module(TRAINERS[kind]).train


def claim_and_train(run: Run, data: Callable[[], Data]) -> bool:
    """Trains a run into the store unless it is there already; returns whether this process trained it.

    data: returns the images of the run; it is called only if they are needed. If another process is training the run,
    this waits for it. A result in the store that is damaged is set aside. Of several processes that train it together
    (see `normbench.system.ranks`), the first one does all this. Exits with code 75 if SIGTERM has arrived.
    Raises UserError if the run cannot have a valid record.
    """
    first = ranks.rank() == 0
    with store.claimed(run.id) if first else contextlib.nullcontext():
        trained = ranks.first_only(lambda: not store.sound(run.id))
        if trained:
            problem = problem_of(run)
            if problem is not None:
                raise UserError(f"{run.title or run.id}: {problem}")
            images = data()
            if first:
                store.set_aside(run.id)
                train(run, images)
            else:
                assist(run, images)
        if first:
            store.forget(run.id)
    if preemption.requested():  # SIGTERM came while it was only recorded.
        raise SystemExit(preemption.EXIT_CODE)
    return trained


def assist(run: Run, data: Data) -> None:
    """Trains a run together with the first process, which alone stores its state and its outcome."""
    module = importlib.import_module(TRAINERS[run.kind])
    if not hasattr(module, "assist"):
        raise UserError(f"{run.title or run.id}: a run of the kind {run.kind} is trained by one process")
    with preemption.saved():
        module.assist(run, data)


def train(run: Run, data: Data) -> None:
    """Trains a run, from its last checkpoint if it has one, and moves its files and its record into the store."""
    started, checkpoints, notes = provenance.now(), Checkpoints(store.unfinished(run.id)), under_way.Notes(run.id)
    with Progress(run.title, run.steps, also=notes) as progress:
        with preemption.saved():
            trained = trainer(run.kind)(run, data, checkpoints, progress)
        progress.close(trained.summary)
    with files.atomic_folder(store.folder(run.id)) as folder:
        recorded(run, trained, folder, data.device, started, checkpoints.spent).write(folder / RECORD)
    notes.forget()


def recorded(run: Run, trained: Trained, folder: Path, device: str, started: str, spent: float = 0.0) -> TrainedRecord:
    """Writes the files of a trained run into a folder, measures the memory of a step, and returns the run's record.

    device: its kind. started: the result of `provenance.now` when the run began. spent: seconds on checkpoints.
    """
    trained.write(folder)
    began = time.perf_counter()
    memory = trained.step_memory()
    seconds = {"memory": time.perf_counter() - began, "checkpoints": spent}
    status = Status.FINISHED if trained.diverged is None else Status.DIVERGED
    cost = {
        "images_per_second": trained.images_per_second,
        "peak_memory_bytes": memory,
        "parameters": trained.parameters,
        "epoch_seconds": trained.epoch_seconds,
        "resumed": trained.resumed,
        "seconds": trained.seconds | seconds,
    }
    record = {
        "format": FORMAT,
        "run": run.id,
        "kind": run.kind,
        "seed": run.seed,
        "status": status,
        "diverged": trained.diverged,
        "metrics": trained.metrics,
        "cost": made(Cost, cost),
        "provenance": provenance.collect(run, trained.numerics, device, started),
        "files": finished.facts(folder, [*contents(run.kind, status), *optional(run.kind, status)]),
    }
    return made(TrainedRecord, record)
