"""Runs for tests that need no data: a classifier and a GAN, small and complete, and any of their values changed."""

from __future__ import annotations

from typing import Any

from normbench.data.bound import Bound
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.runs.record import FORMAT, Cost, Device, Git, Numerics, Provenance, Record
from normbench.runs.run import Kind, Run, Status
from normbench.runs.variant import Variant
from normbench.training.recipe import Recipe
from normbench.training.task import Task


def task(**changed: Any) -> Task:
    """A task of a classifier. recipe: the fields of its recipe that are not the default."""
    recipe = {"epochs": 2} | changed.pop("recipe", {})
    values: dict[str, Any] = {"name": "t", "seed": 0, "seeds": [0, 1], "dataset": "d", "model": "resnet8"}
    values |= {"model_options": {"width": 4}, "model_code": "model", "recipe": Recipe(**recipe)}
    return Task(**values | changed)


def gan_task(**changed: Any) -> GanTask:
    """A task of a GAN. recipe: the fields of its recipe that are not the default."""
    recipe = {"iterations": 4} | changed.pop("recipe", {})
    values: dict[str, Any] = {"name": "t", "seed": 0, "seeds": [0, 1], "dataset": "d", "model": "sngan"}
    values |= {"model_options": {"width": 8}, "model_code": "model", "recipe": GanRecipe(**recipe)}
    return GanTask(**values | changed)


def variant(**changed: Any) -> Variant:
    values: dict[str, Any] = {"name": "v", "method": "batch_norm", "options": {"eps": 0.1}, "method_code": "method"}
    return Variant(**values | changed)


def bound(**changed: Any) -> Bound:
    """A dataset of small images of one channel, which lies nowhere."""
    values: dict[str, Any] = {"name": "d", "path": "build/data/d", "fingerprint": "0" * 64, "classes": 4}
    values |= {"channels": 1, "image_size": 8, "train": 64, "test": 64, "mean": [0.3], "std": [0.3], "origin": "here"}
    return Bound(**values | changed)


def run(kind: Kind = Kind.CLASSIFICATION, seed: int = 0, code: str = "code", **parts: Any) -> Run:
    """A run. parts: its task, variant, bound dataset and title where they are not those of above."""
    given = parts.get("task") or (gan_task() if kind is Kind.GAN else task())
    title = parts.get("title", f"t v seed {seed}")
    return Run(kind, given, parts.get("variant") or variant(), seed, parts.get("bound") or bound(), code, title)


def record(of: Run, status: Status = Status.FINISHED) -> Record:
    """What training could have left of a run."""
    diverged = None if status is Status.FINISHED else {"epoch": 0, "step": 3}
    cost = Cost(
        images_per_second=100.0, peak_memory_bytes=1000, parameters=10, epoch_seconds=[1.0], resumed=None, seconds={}
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
    return Record(
        format=FORMAT,
        run=of.id,
        kind=of.kind,
        seed=of.seed,
        status=status,
        diverged=diverged,
        metrics={"clean_accuracy": 0.5},
        cost=cost,
        provenance=provenance,
    )
