"""The stage `evaluate`: computes the scores of every trained run of a task and variant and adds them to its record."""

from __future__ import annotations

import functools
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from normbench.data import intact
from normbench.data.batches import Images
from normbench.data.bound import Bound, Corrupted
from normbench.data.streamed import held_out
from normbench.evaluation.copies import Maker
from normbench.evaluation.evaluate import Chosen, measure, merged
from normbench.evaluation.registry import scores
from normbench.evaluation.subject import Subject, scored_images
from normbench.runs.finished import record_in
from normbench.runs.networks import initial_classifier, trained_classifier
from normbench.runs.record import Record
from normbench.runs.run import OUTPUTS, SCORED_IN, Kind
from normbench.suite import agreement, resolved
from normbench.suite.copies import maker_of
from normbench.suite.evaluate_masks import evaluate_masks
from normbench.suite.suite import Suite
from normbench.system import device as devices
from normbench.system import files, layout, npy
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.schema import first_problem
from normbench.system.side_by_side import processes_for, side_by_side
from normbench.training.task import Task


def evaluate(task: str, variant: str) -> None:
    """Add the scores of `params.yaml`'s `evaluation` to the records of a task and variant.

    Raises UserError, and stores nothing, if images, weights or predictions are not those that were written.
    """
    if Suite.resolved().kind_of(task) is Kind.SEGMENTATION:
        evaluate_masks(task, variant)
        return
    spec = resolved.task(Kind.CLASSIFICATION, task)
    settings = resolved.evaluation()
    bound = Bound.read(layout.BOUND / f"{task}.json")
    corrupted = Corrupted.read(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    intact.check_bound(bound)  # Here, so that parallel processes do not each do so.
    intact.check_corrupted(corrupted)
    make = maker_of(corrupted, Path(bound.path))
    chosen: list[Chosen | None] = [None, *scores_of(settings)]
    with files.atomic_folder(SCORED_IN[Kind.CLASSIFICATION] / task / variant) as out:
        folders = {seed: OUTPUTS[Kind.CLASSIFICATION] / task / variant / str(seed) for seed in spec.seeds}
        records: dict[int, Record] = {seed: record_in(run) for seed, run in folders.items()}
        images = shared_images(bound, device)
        parts = out / "parts"
        parts.mkdir()
        scorings, places = list[Callable[[], object]](), dict[int, list[Path]]()
        finished = [seed for seed, record in records.items() if record.finished]
        # A process reads its network once, so that it takes all scores of a run. The runs that are left when every
        # process has had as many take one process for each score.
        whole = len(finished) - len(finished) % processes_for(device, spec.recipe.threads, len(finished) * len(chosen))
        for number, seed in enumerate(finished):
            places[seed] = [parts / f"{seed}-{score}" for score in range(len(chosen))]
            read = functools.cache(
                functools.partial(
                    checked_subject,
                    records[seed],
                    folders[seed],
                    images,
                    corrupted,
                    settings["corrupted_examples"],
                    device,
                    make,
                )
            )
            title = f"evaluate {task} {variant} seed {seed}"
            pairs = list(zip(chosen, places[seed], strict=True))
            for some in [pairs] if number < whole else [[pair] for pair in pairs]:
                scorings.append(functools.partial(score, read, some, title))
        side_by_side(scorings, device, spec.recipe.threads)
        inputs = {"corrupted": corrupted, "evaluation": settings}
        for seed, record in records.items():
            if record.finished:
                found, seconds = merged(pickle.loads(place.read_bytes()) for place in places[seed])
                record = record.with_scores(found.metrics, seconds, inputs)
                npy.save_compressed(out / f"{seed}.npz", found.predictions)
            record.write(out / f"{seed}.json")
        shutil.rmtree(parts)


def score(subject: Callable[[], Subject], parts: list[tuple[Chosen | None, Path]], title: str) -> None:
    """Measures parts of the scores of a run and writes each to its file, for the process that merges them.

    subject: returns the trained network and its images. parts: see `normbench.evaluation.evaluate.measure`. title: of
    the progress of the scores that are always measured.
    """
    given = subject()
    for chosen, to in parts:
        if chosen is not None:
            part = measure(given, chosen, lambda done, name: None)
        else:
            with Progress(title, len(given.corrupted.names)) as progress:
                part = measure(given, None, progress.update)
                mean = np.mean(list(part.found.metrics["corruption_accuracy"].values()))
                progress.close(f"corruption accuracy {mean:.4f}")
        to.write_bytes(pickle.dumps(part))


def shared_images(bound: Bound, device: str) -> Images:
    """Reads the clean test images of a dataset, once for all processes that are forked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a process that has used more must not be forked
    try:
        return held_out(bound, device)
    finally:
        torch.set_num_threads(threads)


def checked_subject(
    record: Record,
    run: Path,
    images: Images,
    corrupted: Corrupted,
    corrupted_examples: int | None,
    device: str,
    make: Maker | None,
) -> Subject:
    """Returns what `subject_of` returns.

    Raises UserError if the files of the run are not those of its record, or if its weights do not give its predictions.
    """
    subject = subject_of(record, run, images, corrupted, corrupted_examples, device, make)
    agreement.check(record, run, subject)
    return subject


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
    record: Record,
    run: Path,
    images: Images,
    corrupted: Corrupted,
    corrupted_examples: int | None,
    device: str,
    make: Maker | None = None,
) -> Subject:
    """Returns what the scores are measured on: the network and the images, with the run's own precision and threads.

    images: the clean test images on the device. corrupted_examples: the number of test images that are scored with
    corruptions; None for all of them. make: see `Subject`.
    """
    task = narrowed(record.provenance.task, Task, f"{run}: task")
    devices.prepare(device, task.recipe.precision, task.recipe.deterministic)
    devices.use_threads(task.recipe.threads, device)
    model = trained_classifier(record, run, device)
    images = images.made_for(model, record.provenance.numerics.memory_format)
    return Subject(
        model=model,
        initial=lambda: initial_classifier(record, device),
        images=images,
        corrupted=corrupted,
        index=scored_images(len(images), task.seed, corrupted_examples),
        precision=task.recipe.precision,
        seed=task.seed,
        make=make,
        forked=True,
    )
