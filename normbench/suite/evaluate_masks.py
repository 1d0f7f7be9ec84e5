"""The stage `evaluate` for tasks of segmentation: scores on clean and corrupted images, added to the records."""

from __future__ import annotations

import functools
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from normbench.data import intact, scenes
from normbench.data.bound import Bound, Corrupted
from normbench.data.scenes import Scenes
from normbench.evaluation.copies import Maker
from normbench.evaluation.registry import SCORES
from normbench.evaluation.subject import scored_images
from normbench.functional.constants import unchanging
from normbench.runs.contents import PREDICTIONS
from normbench.runs.finished import record_in
from normbench.runs.networks import trained_segmenter
from normbench.runs.record import Record
from normbench.runs.run import OUTPUTS, SCORED_IN, Kind
from normbench.segmentation.predictions import logits
from normbench.segmentation.protocol import protocol
from normbench.segmentation.score import Subject, measure
from normbench.segmentation.task import SegmentationTask
from normbench.suite import resolved
from normbench.suite.agreement import TIE, same_machine
from normbench.suite.copies import maker_of
from normbench.system import device as devices
from normbench.system import files, layout, npy
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.side_by_side import side_by_side

NOT_MEASURED = "is not measured of segmentation"


def evaluate_masks(task: str, variant: str) -> None:
    """Adds the scores to the records of a task of segmentation and a variant.

    Of the scores of `evaluation` it has none: the record says so for each that is on. Raises UserError, and stores
    nothing, if images, weights or predictions are not those that were written.
    """
    spec, settings = resolved.task(Kind.SEGMENTATION, task), resolved.evaluation()
    bound = Bound.read(layout.BOUND / f"{task}.json")
    corrupted = Corrupted.read(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    intact.check_bound(bound)
    intact.check_corrupted(corrupted)
    missing = {name: NOT_MEASURED for name in SCORES.names() if settings.get(name) is not None}
    with files.atomic_folder(SCORED_IN[Kind.SEGMENTATION] / task / variant) as out:
        folders = {seed: OUTPUTS[Kind.SEGMENTATION] / task / variant / str(seed) for seed in spec.seeds}
        records: dict[int, Record] = {seed: record_in(run) for seed, run in folders.items()}
        images, parts = scenes.held_out(bound, device), out / "parts"
        parts.mkdir()
        finished = [seed for seed, record in records.items() if record.finished]
        side_by_side(
            [
                functools.partial(
                    score,
                    records[seed],
                    folders[seed],
                    images,
                    corrupted,
                    settings["corrupted_examples"],
                    device,
                    maker_of(corrupted, Path(bound.path)),
                    f"evaluate {task} {variant} seed {seed}",
                    parts / str(seed),
                )
                for seed in finished
            ],
            device,
            spec.recipe.threads,
        )
        inputs = {"corrupted": corrupted, "evaluation": settings}
        for seed, record in records.items():
            if record.finished:
                found, seconds = pickle.loads((parts / str(seed)).read_bytes())
                record = record.with_scores(found.metrics | {"missing": missing}, {"corruptions": seconds}, inputs)
                npy.save_compressed(out / f"{seed}.npz", found.arrays)
            record.write(out / f"{seed}.json")
        shutil.rmtree(parts)


def score(
    record: Record,
    run: Path,
    images: Scenes,
    corrupted: Corrupted,
    corrupted_examples: int | None,
    device: str,
    make: Maker | None,
    title: str,
    to: Path,
) -> None:
    """Scores a run and writes what was measured to a file, for the process that adds it to the record."""
    subject = subject_of(record, run, images, corrupted, corrupted_examples, device, make)
    check(record, run, subject)
    began = time.perf_counter()
    with Progress(title, max(1, len(corrupted.names))) as progress, unchanging(subject.model):
        found = measure(subject, progress.update)
        mean = found.metrics["columns"].get("corruption_mean_iou")
        progress.close("" if mean is None else f"corruption mean IoU {mean:.4f}")
    to.write_bytes(pickle.dumps((found, time.perf_counter() - began)))


def subject_of(
    record: Record,
    run: Path,
    images: Scenes,
    corrupted: Corrupted,
    corrupted_examples: int | None,
    device: str,
    make: Maker | None,
) -> Subject:
    """Returns what the scores are measured on, with the run's own precision and threads.

    corrupted_examples: the number of test images that are scored with corruptions; None for all of them. make: makes
    the corrupted images if they are not stored.
    """
    task = narrowed(record.provenance.task, SegmentationTask, f"{run}: task")
    devices.prepare(device, task.recipe.precision, task.recipe.deterministic)
    devices.use_threads(task.recipe.threads, device)
    model = trained_segmenter(record, run, device).requires_grad_(False)
    return Subject(
        model=model,
        scenes=images.made_for(model, record.provenance.numerics.memory_format),
        corrupted=corrupted,
        index=scored_images(len(images), task.seed, corrupted_examples),
        protocol=protocol(task.recipe, record.provenance.dataset),
        precision=task.recipe.precision,
        make=make,
    )


def check(record: Record, run: Path, subject: Subject) -> None:
    """Raises UserError, which names the run, if its weights do not give its predictions.

    As for classifiers (see `normbench.suite.agreement`), all pixels must agree on the same kind of machine; elsewhere
    those whose two classes are near a tie may differ.
    """
    with np.load(run / PREDICTIONS, allow_pickle=False) as arrays:
        stored = arrays["predicted"]
    scenes_, chosen, done, bad = subject.scenes, subject.protocol, 0, 0
    if stored.shape != (len(scenes_), chosen.height, chosen.width):
        raise UserError(f"{run}: run {record.run}: {PREDICTIONS} has masks of the shape {stored.shape}")
    exact = same_machine(record, scenes_.device)
    rows = np.arange(len(scenes_))
    for found in logits(subject.model, scenes_, scenes_.pixels, rows, chosen, subject.precision):
        was = torch.from_numpy(stored[done : done + len(found)]).to(found.device).long()
        done += len(found)
        if exact:
            bad += int((found.argmax(1) != was).sum())
            continue
        most, least = found.amax(1), found.amin(1)
        gap = most - found.gather(1, was[:, None])[:, 0]
        tie = (gap <= TIE[subject.precision] * (most - least)) | ~found.isfinite().all(1)
        bad += int(((found.argmax(1) != was) & ~tie).sum())
    if bad:
        bound = "on the same kind of machine all must agree" if exact else "more than rounding can change"
        raise UserError(
            f"{run}: run {record.run}: its weights give {bad} of {stored.size} pixels another class than "
            f"{PREDICTIONS}: {bound}"
        )
