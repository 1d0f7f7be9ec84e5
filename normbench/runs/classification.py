"""Trains the run of a classifier: shows progress, and returns weights, predictions, metrics and costs."""

from __future__ import annotations

import time

from normbench.data.prepared import Splits
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.models import registry as models
from normbench.runs import epochs
from normbench.runs.run import Run
from normbench.runs.trained import Clock, Trained
from normbench.system import layout, side_by_side
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.threads import cores
from normbench.training import certified, classifier
from normbench.training.compilation import keep_compiled
from normbench.training.keeper import Keeper
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
    certified.fit(_prepared(method, run, task, data), task, run.seed, lambda *_: None)


def train_with(method: Method, run: Run, task: Task, data: Splits, keeper: Keeper, progress: Progress) -> Trained:
    """`train` with a method object, which need not be one that its variant refers to. task: that of the run."""
    clock = Clock(time.perf_counter)
    prepared = _prepared(method, run, task, data)
    clock.end("setup")
    return epochs.trained(
        prepared,
        data.device,
        clock,
        progress,
        fit=lambda report: certified.fit(prepared, task, run.seed, report, keeper),
        measure=lambda outcome: classifier.measure(prepared, outcome),
        step_memory=lambda: classifier.step_memory(prepared),
        score=lambda metrics: f"clean accuracy {metrics['clean_accuracy']:.4f}",
    )


def _prepared(method: Method, run: Run, task: Task, data: Splits) -> classifier.Classifier:
    model = models.get(task.model, "classifier")
    return classifier.prepare(task, model, method, run.bound, run.seed, data)
