"""The stage `evaluate`: computes the scores of every trained run of a task and variant and adds them to its record."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from normbench.data import intact
from normbench.data.bound import Bound, Corrupted
from normbench.data.prepared import held_out
from normbench.evaluation.evaluate import Chosen, measure
from normbench.evaluation.registry import scores
from normbench.evaluation.subject import Subject, scored_images
from normbench.runs.finished import record_in
from normbench.runs.networks import initial_classifier, trained_classifier
from normbench.runs.record import Record
from normbench.runs.run import OUTPUTS, Kind
from normbench.suite import agreement, resolved
from normbench.system import device as devices
from normbench.system import files, layout, npy
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.schema import first_problem
from normbench.system.side_by_side import side_by_side
from normbench.training.task import Task


def evaluate(task: str, variant: str) -> None:
    """Add the scores of `params.yaml`'s `evaluation` to the records of a task and variant.

    Raises UserError, and stores nothing, if images, weights or predictions are not those that were written.
    """
    spec = resolved.task(Kind.CLASSIFICATION, task)
    settings = resolved.evaluation()
    bound = Bound.read(layout.BOUND / f"{task}.json")
    corrupted = Corrupted.read(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    intact.check_bound(bound)  # Here, so that parallel processes do not each do so.
    intact.check_corrupted(corrupted)
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
    """Writes `<out>.json`, the record with its scores, and `<out>.npz`, the predicted class of each image.

    For a run that diverged, it writes the unchanged record and no predictions. Raises UserError if the files of the run
    are not those of its record, or if its weights do not give its predictions.
    """
    record: Record = record_in(run)
    if record.finished:
        subject = subject_of(record, run, bound, corrupted, settings["corrupted_examples"], device)
        agreement.check(record, run, subject)
        with Progress(title, len(corrupted.names)) as progress:
            found, seconds = measure(subject, scores_of(settings), progress.update)
            mean = np.mean(list(found.metrics["corruption_accuracy"].values()))
            progress.close(f"corruption accuracy {mean:.4f}")
        record = record.with_scores(found.metrics, seconds, {"corrupted": corrupted, "evaluation": settings})
        npy.save_compressed(out.with_suffix(".npz"), found.predictions)
    record.write(out.with_suffix(".json"))


def scores_of(settings: Mapping[str, Any]) -> list[Chosen]:
    """Returns the scores to measure, with their settings, from the JSON of the section `evaluation`.

    Raises UserError, with the command that mends it, if these are no settings of scores.
    """
    known = scores()
    try:
        found = [
            (score, score.settings.model_validate(settings[score.name]))
            for score in known
            if settings.get(score.name) is not None
        ]
    except ValidationError as error:
        raise resolved.damaged("evaluation", first_problem(error)) from None
    unknown = settings.keys() - {"corrupted_examples", *(score.name for score in known)}
    if unknown:
        raise resolved.damaged("evaluation", f"no score is called {sorted(unknown)[0]!a}")
    return found


def subject_of(
    record: Record, run: Path, bound: Bound, corrupted: Corrupted, corrupted_examples: int | None, device: str
) -> Subject:
    """Returns what the scores are measured on: the network and the images, with the run's own precision and threads.

    corrupted_examples: the number of test images that are scored with corruptions; None for all of them.
    """
    task = narrowed(record.provenance.task, Task, f"{run}: task")
    devices.prepare(device)
    devices.use_threads(task.recipe.threads, device)
    model = trained_classifier(record, run, device)
    images = held_out(bound, device).made_for(model, record.provenance.numerics.memory_format)
    return Subject(
        model=model,
        initial=lambda: initial_classifier(record, device),
        images=images,
        corrupted=corrupted,
        index=scored_images(len(images), task.seed, corrupted_examples),
        precision=task.recipe.precision,
        seed=task.seed,
    )
