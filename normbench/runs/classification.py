"""Trains the run of a classifier: shows progress, and returns weights, predictions, metrics and costs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from normbench.data.prepared import Splits
from normbench.functional import placement
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.models import registry as models
from normbench.runs.checkpoint import save_weights
from normbench.runs.contents import PREDICTIONS, WEIGHTS
from normbench.runs.record import Numerics
from normbench.runs.run import Run
from normbench.runs.trained import Clock, Speed, Trained
from normbench.system import layout, npy, side_by_side
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.threads import cores
from normbench.training import certified, classifier
from normbench.training.compilation import keep_compiled
from normbench.training.keeper import Keeper
from normbench.training.loop import Outcome
from normbench.training.task import Task


def train(run: Run, data: Splits, keeper: Keeper, progress: Progress) -> Trained:
    """Trains a classifier on the device that holds its data.

    keeper: saves and restores the state of the training. progress: shows epoch, loss and images per second.
    """
    task = narrowed(run.task, Task, f"run {run.id}: task")
    if task.recipe.compile is not None:
        keep_compiled(str(layout.store() / "compiled"), max(1, cores() // side_by_side.beside))
    method = methods.build(run.variant.method, run.variant.options)
    return train_with(method, run, task, data, keeper, progress)


def assist(run: Run, data: Splits) -> None:
    """Trains a classifier together with the first of several processes, which alone returns the outcome."""
    task = narrowed(run.task, Task, f"run {run.id}: task")
    method = methods.build(run.variant.method, run.variant.options)
    model = models.get(task.model, "classifier")
    prepared = classifier.prepare(task, model, method, run.bound, run.seed, data)
    certified.fit(prepared, task, run.seed, lambda *_: None)


def train_with(method: Method, run: Run, task: Task, data: Splits, keeper: Keeper, progress: Progress) -> Trained:
    """`train` with a method object, which need not be one that its variant refers to. task: that of the run."""
    recipe, clock = task.recipe, Clock(time.perf_counter)
    prepared = classifier.prepare(task, models.get(task.model, "classifier"), method, run.bound, run.seed, data)
    parameters = prepared.parameters
    clock.end("setup")

    speed = Speed(recipe.batch_size, time.perf_counter)

    def report(epoch: int, step: int, steps: int, loss: float) -> None:
        images = speed.at(epoch * steps + step)
        progress.update(
            epoch + step / steps, f"epoch {epoch + 1}/{recipe.epochs}, loss {loss:.3f}, {images:,.0f} images/s"
        )

    outcome = certified.fit(prepared, task, run.seed, report, keeper)
    clock.end("train")
    metrics, predicted = classifier.measure(prepared, outcome)
    clock.end("evaluate")

    def write(folder: Path) -> None:
        save_weights(prepared.model, folder / WEIGHTS)
        if predicted is not None:
            npy.save_compressed(folder / PREDICTIONS, {"predicted": predicted})

    return Trained(
        summary=_summary(outcome, metrics.get("clean_accuracy")),
        diverged=outcome.diverged,
        metrics=metrics,
        images_per_second=images_per_second(outcome, len(prepared.train)),
        parameters=parameters,
        epoch_seconds=outcome.epoch_seconds,
        resumed=outcome.resumed,
        seconds=clock.seconds | {"train": outcome.seconds, "compile": outcome.compile_seconds},
        numerics=Numerics(
            precision=recipe.precision,
            memory_format=placement.memory_format_name(prepared.model, data.device, recipe.memory_format),
            threads=recipe.threads if data.device == "cpu" else None,
        ),
        write=write,
        step_memory=lambda: classifier.step_memory(prepared),
    )


def _summary(outcome: Outcome, accuracy: float | None) -> str:
    if outcome.diverged is not None:
        return f"diverged at step {outcome.diverged['step']}"
    return f"clean accuracy {accuracy:.4f}"


def images_per_second(outcome: Outcome, images: int) -> float | None:
    """Returns the median over the epochs after the first; None if no epoch was completed.

    Kernels are still being chosen in the first epoch.
    """
    seconds = outcome.epoch_seconds[1:] or outcome.epoch_seconds
    return images / float(np.median(seconds)) if seconds else None
