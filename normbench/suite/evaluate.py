"""The stage `evaluate`: the scores of every trained run of a task and variant, added to its record."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.data.bound import Bound, Corrupted
from normbench.data.prepared import held_out
from normbench.evaluation.evaluate import measure
from normbench.evaluation.registry import SCORES
from normbench.evaluation.subject import Subject
from normbench.runs.contents import RECORD
from normbench.runs.networks import initial_classifier, trained_classifier
from normbench.runs.record import Record
from normbench.runs.run import OUTPUTS, Kind
from normbench.suite import resolved
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.progress import Progress
from normbench.system.schema import Strict
from normbench.system.seeds import derive
from normbench.system.side_by_side import side_by_side
from normbench.training.task import Task


def evaluate(task: str, variant: str) -> None:
    """Add the scores of `params.yaml`'s `evaluation` to the records of a task and variant."""
    spec = resolved.task(Kind.CLASSIFICATION, task)
    settings = files.read_json(layout.RESOLVED / "evaluation.json")
    bound = Bound.read(layout.BOUND / f"{task}.json")
    corrupted = Corrupted.read(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    devices.prepare(device)
    with files.atomic_folder(layout.SCORES / Kind.CLASSIFICATION / task / variant) as out:
        scorings = []
        for seed in spec.seeds:
            run = OUTPUTS[Kind.CLASSIFICATION] / task / variant / str(seed)
            title = f"evaluate {task} {variant} seed {seed}"
            scorings.append(functools.partial(score, run, out / str(seed), bound, corrupted, settings, device, title))
        side_by_side(scorings, device, spec.recipe.threads)


def score(
    run: Path,
    out: Path,
    bound: Bound,
    corrupted: Corrupted,
    settings: dict[str, Any],
    device: str,
    title: str,
) -> None:
    """Write `<out>.json`, the record with its scores, and `<out>.npz`, the predicted class of each image.

    The record as it is, and no predictions, where the run did not finish.
    """
    record = Record.read(run / RECORD)
    if record.finished:
        subject = subject_of(record, run, bound, corrupted, settings["corrupted_examples"], device)
        with Progress(title, len(corrupted.names)) as progress:
            scores, seconds = measure(subject, scores_of(settings), progress.update)
            mean = np.mean(list(scores.metrics["corruption_accuracy"].values()))
            progress.close(f"corruption accuracy {mean:.4f}")
        record = record.with_scores(scores.metrics, seconds, {"corrupted": corrupted, "evaluation": settings})
        np.savez_compressed(out.with_suffix(".npz"), allow_pickle=False, **scores.predictions)
    record.write(out.with_suffix(".json"))


def scores_of(settings: Mapping[str, Any]) -> dict[str, Strict | None]:
    """The settings of each score, from the JSON of the section `evaluation`."""
    chosen = {name: value for name, value in settings.items() if name in SCORES.names()}
    return {
        name: None if value is None else SCORES.get(name).settings.model_validate(value)
        for name, value in chosen.items()
    }


def subject_of(
    record: Record, run: Path, bound: Bound, corrupted: Corrupted, corrupted_examples: int | None, device: str
) -> Subject:
    """What a run is scored on: in the precision and with the threads that it was trained with.

    corrupted_examples: how many test images are scored with corruptions; all of them for None.
    """
    task = record.provenance.task
    assert isinstance(task, Task)
    devices.use_threads(task.recipe.threads, device)
    model = trained_classifier(record, run, device)
    images = held_out(bound, device).made_for(model, record.provenance.numerics.memory_format)
    generator = torch.Generator().manual_seed(derive(task.seed, "corrupted_examples"))
    index = torch.randperm(len(images), generator=generator)[:corrupted_examples].sort().values.numpy()
    return Subject(
        model=model,
        initial=lambda: initial_classifier(record, device),
        images=images,
        corrupted=corrupted,
        index=index,
        precision=task.recipe.precision,
        seed=task.seed,
    )
