"""Trains the run of a network of segmentation: shows progress, and returns weights, predictions, metrics and costs."""

from __future__ import annotations

import time

from normbench.data.scenes import ScenePair
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import epochs
from normbench.runs.run import Run
from normbench.runs.trained import Clock, Trained
from normbench.segmentation import trainer
from normbench.segmentation.task import SegmentationTask
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training.keeper import Keeper


def assist(run: Run, data: ScenePair) -> None:
    """Trains a network of segmentation together with the first of several processes, which returns the outcome."""
    task = narrowed(run.task, SegmentationTask, f"run {run.id}: task")
    trainer.fit(_prepared(run, task, data), task, run.seed, lambda *_: None)


def train(run: Run, data: ScenePair, keeper: Keeper, progress: Progress) -> Trained:
    """Trains a network of segmentation on the device of its data.

    keeper: saves and restores the state of the training. progress: shows epoch, loss and images per second.
    """
    task = narrowed(run.task, SegmentationTask, f"run {run.id}: task")
    clock = Clock(time.perf_counter)
    prepared = _prepared(run, task, data)
    clock.end("setup")
    return epochs.trained(
        prepared,
        data.device,
        clock,
        progress,
        fit=lambda report: trainer.fit(prepared, task, run.seed, report, keeper),
        measure=lambda outcome: trainer.measure(prepared, outcome),
        step_memory=lambda: trainer.step_memory(prepared),
        score=lambda metrics: f"mean IoU {metrics['mean_iou']:.4f}",
    )


def _prepared(run: Run, task: SegmentationTask, data: ScenePair) -> trainer.Segmenter:
    method = methods.build(run.variant.method, run.variant.options)
    return trainer.prepare(task, models.get(task.model, "segmenter"), method, run.bound, run.seed, data)
