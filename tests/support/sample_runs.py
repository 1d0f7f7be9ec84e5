"""Runs for tests that need no data: a classifier and a GAN, small and complete, and any of their values changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from normbench.data.bound import Bound
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.runs.contents import PREDICTIONS, RECORD, SAMPLES, contents
from normbench.runs.finished import facts
from normbench.runs.generation import grid_side
from normbench.runs.record import FORMAT, Cost, Device, Git, Numerics, Provenance, Stored, TrainedRecord
from normbench.runs.run import Kind, Run, Status
from normbench.runs.variant import Variant
from normbench.training.recipe import Recipe
from normbench.training.task import Task

SEEDS = list(range(100))
KINDS = (Kind.CLASSIFICATION, Kind.GAN)  # of which there are samples; tests/suite/test_segmentation.py trains its own


def task(**changed: Any) -> Task:
    """A task of a classifier. recipe: the fields of its recipe that are not the default."""
    recipe = {"epochs": 2} | changed.pop("recipe", {})
    values: dict[str, Any] = {"name": "t", "seed": 0, "seeds": SEEDS, "dataset": "d", "model": "resnet8"}
    values |= {"model_options": {"width": 4}, "model_code": "1" * 64, "recipe": Recipe(**recipe)}
    return Task(**values | changed)


def gan_task(**changed: Any) -> GanTask:
    """A task of a GAN. recipe: the fields of its recipe that are not the default."""
    recipe = {"iterations": 4} | changed.pop("recipe", {})
    values: dict[str, Any] = {"name": "t", "seed": 0, "seeds": SEEDS, "dataset": "d", "model": "sngan"}
    values |= {"model_options": {"width": 8}, "model_code": "1" * 64, "recipe": GanRecipe(**recipe)}
    return GanTask(**values | changed)


def variant(**changed: Any) -> Variant:
    values: dict[str, Any] = {"name": "v", "method": "batch_norm", "options": {"eps": 0.1}, "method_code": "2" * 64}
    return Variant(**values | changed)


def bound(**changed: Any) -> Bound:
    """A dataset of small images of one channel, which lies nowhere."""
    values: dict[str, Any] = {"name": "d", "path": "build/data/d", "fingerprint": "0" * 64, "classes": 4}
    values |= {"channels": 1, "image_size": 8, "train": 64, "test": 64, "mean": [0.3], "std": [0.3], "origin": "here"}
    return Bound(**values | changed)


def run(kind: Kind = Kind.CLASSIFICATION, seed: int = 0, code: str = "3" * 64, **parts: Any) -> Run:
    """A run. parts: its task, variant, bound dataset and title where they are not those of above."""
    given = parts.get("task") or (gan_task() if kind is Kind.GAN else task())
    title = parts.get("title", f"t v seed {seed}")
    return Run(kind, given, parts.get("variant") or variant(), seed, parts.get("bound") or bound(), code, title)


def finished(of: Run, folder: Path, status: Status = Status.FINISHED) -> TrainedRecord:
    """Writes what training could have left of a run into a folder, and returns its record.

    The weights are those of no network, as the digests of the run are those of no code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = contents(of.kind, status)
    torch.save({"w": torch.arange(1000.0) + of.seed}, folder / names[0])
    if PREDICTIONS in names:
        predicted = np.arange(of.bound.test, dtype=np.int32) % of.bound.classes
        np.savez_compressed(folder / PREDICTIONS, predicted=predicted)
    if SAMPLES in names:
        Image.new("L", (grid_side(of.bound.image_size),) * 2).save(folder / SAMPLES)
    made = record(of, status, facts(folder, names))
    made.write(folder / RECORD)
    return made


def record(of: Run, status: Status = Status.FINISHED, files: dict[str, Stored] | None = None) -> TrainedRecord:
    """What training could have noted of a run. files: those that it left, or None for invented ones."""
    files = files or {name: Stored(bytes=1000, sha256="4" * 64) for name in contents(of.kind, status)}
    recipe, done = of.task.recipe, status is Status.FINISHED
    metrics: dict[str, Any]
    if isinstance(recipe, GanRecipe):
        diverged = {"step": 3}
        losses = {"discriminator_loss": 1.5, "generator_loss": 0.2}
        metrics = {"history": [{"iteration": recipe.iterations, **losses}] if done else []}
    else:
        diverged = {"epoch": 0, "step": 0}
        epochs = range(1, 1 + recipe.epochs * done)
        metrics = {"history": [{"epoch": e, "lr": 0.1, "loss": 1 / e, "accuracy": 1 - 1 / e} for e in epochs]}
        metrics["training_set"] = {"images": of.bound.train, "flipped_labels": 0.0}
        metrics |= {"clean_accuracy": 0.5} if done else {}
    cost = Cost(
        images_per_second=100.0, peak_memory_bytes=1000, parameters=10, epoch_seconds=[], resumed=None, seconds={}
    )
    provenance = Provenance(
        task=of.task,
        variant=of.variant,
        dataset=of.bound,
        code=of.code,
        git=Git(revision=None, dirty=None),
        versions={},
        device=Device(type="cpu", name="a CPU", cpu="a CPU", cores=2, system="Linux", side_by_side=1),
        numerics=Numerics(precision="float32", memory_format="contiguous", threads=1),
        started="2026-03-01T10:00:00+00:00",
        ended="2026-03-01T10:05:00+00:00",
    )
    return TrainedRecord(
        format=FORMAT,
        run=of.id,
        kind=of.kind,
        seed=of.seed,
        status=status,
        diverged=None if done else diverged,
        metrics=metrics,
        cost=cost,
        provenance=provenance,
        files=files,
    )
