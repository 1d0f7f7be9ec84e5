"""Trains the run of a network of segmentation: shows progress, and returns weights, predictions, metrics and costs."""

from __future__ import annotations

import time
from pathlib import Path

from normbench.data.scenes import ScenePair
from normbench.functional import placement
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.checkpoint import save_weights
from normbench.runs.classification import images_per_second
from normbench.runs.contents import PREDICTIONS, WEIGHTS
from normbench.runs.record import Numerics
from normbench.runs.run import Run
from normbench.runs.trained import Clock, Speed, Trained
from normbench.segmentation import trainer
from normbench.segmentation.task import SegmentationTask
from normbench.system import npy
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training.keeper import Keeper


def assist(run: Run, data: ScenePair) -> None:
    """Trains a network of segmentation together with the first of several processes, which returns the outcome."""
    task = narrowed(run.task, SegmentationTask, f"run {run.id}: task")
    method = methods.build(run.variant.method, run.variant.options)
    prepared = trainer.prepare(task, models.get(task.model, "segmenter"), method, run.bound, run.seed, data)
    trainer.fit(prepared, task, run.seed, lambda *_: None)


def train(run: Run, data: ScenePair, keeper: Keeper, progress: Progress) -> Trained:
    """Trains a network of segmentation on the device of its data.

    keeper: saves and restores the state of the training. progress: shows epoch, loss and images per second.
    """
    task = narrowed(run.task, SegmentationTask, f"run {run.id}: task")
    recipe, clock = task.recipe, Clock(time.perf_counter)
    method = methods.build(run.variant.method, run.variant.options)
    prepared = trainer.prepare(task, models.get(task.model, "segmenter"), method, run.bound, run.seed, data)
    parameters = prepared.parameters
    clock.end("setup")

    speed = Speed(recipe.batch_size, time.perf_counter)

    def report(epoch: int, step: int, steps: int, loss: float) -> None:
        images = speed.at(epoch * steps + step)
        progress.update(
            epoch + step / steps, f"epoch {epoch + 1}/{recipe.epochs}, loss {loss:.3f}, {images:,.1f} images/s"
        )

    outcome = trainer.fit(prepared, task, run.seed, report, keeper)
    clock.end("train")
    metrics, predicted = trainer.measure(prepared, outcome)
    clock.end("evaluate")

    def write(folder: Path) -> None:
        save_weights(prepared.model, folder / WEIGHTS)
        if predicted is not None:
            npy.save_compressed(folder / PREDICTIONS, {"predicted": predicted})

    summary = "" if outcome.diverged else f"mean IoU {metrics['mean_iou']:.4f}"
    return Trained(
        summary=summary or f"diverged at step {outcome.diverged['step'] if outcome.diverged else 0}",
        diverged=outcome.diverged,
        metrics=metrics,
        images_per_second=images_per_second(outcome, len(prepared.train)),
        parameters=parameters,
        epoch_seconds=outcome.epoch_seconds,
        resumed=outcome.resumed,
        seconds=clock.seconds | {"train": outcome.seconds},
        numerics=Numerics(
            precision=recipe.precision,
            memory_format=placement.memory_format_name(prepared.model, data.device, recipe.memory_format),
            threads=recipe.threads if data.device == "cpu" else None,
        ),
        write=write,
        step_memory=lambda: trainer.step_memory(prepared),
    )
