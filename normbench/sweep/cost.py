"""The expected cost of a run, measured on its first training steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from normbench.data import intact
from normbench.data.prepared import Splits
from normbench.data.scenes import ScenePair
from normbench.gan import trainer
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import images
from normbench.runs.images import Data
from normbench.runs.run import Kind, Run
from normbench.segmentation import trainer as segmentation
from normbench.segmentation.crops import Crops
from normbench.segmentation.predictions import batch_size, predicted
from normbench.segmentation.task import SegmentationTask
from normbench.system import device as devices
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training import certified, classifier
from normbench.training.logits import default_batch_size, logits
from normbench.training.recipe import augmentation
from normbench.training.task import Task

WARM, STEPS = 3, 20  # steps before the measurement, in which kernels are chosen, and measured steps
ADVANTAGE = 1.25  # smallest speedup by another precision that is reported

Cell = tuple[Kind, str, str]  # kind, task and variant


@dataclass(frozen=True)
class Cost:
    """The expected cost of a run.

    step: seconds of a training step. steps: of the whole training. rest: seconds outside of the steps. memory: peak
    bytes of training and of predictions on a GPU; 0 elsewhere.
    """

    step: float
    steps: int
    rest: float
    memory: int

    def seconds(self, share: float = 0.0) -> float:
        """Returns the remaining seconds of a run. share: the finished part of its training, 0..1."""
        return self.step * self.steps * (1 - share) + self.rest


class Enough(Exception):
    """Ends a training after the steps that are measured."""


class Stopwatch:
    """A `normbench.training.keeper.Keeper` that saves nothing and measures the time of training steps.

    A training calls it after each step. device: the kind of the device. warm, steps: the numbers of steps before the
    measurement and in it.
    """

    spent = 0.0

    def __init__(self, device: str, warm: int = WARM, steps: int = STEPS):
        self.device, self.warm, self.last, self.times = device, warm, warm + steps, [time.perf_counter()]

    def resume(self) -> None:
        return None

    def due(self) -> bool:
        """Notes the time of a step. Raises Enough after the last step to measure."""
        if len(self.times) in (self.warm, self.last) and self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if len(self.times) > self.last:
            raise Enough
        return False

    def save(self, state: dict[str, object]) -> None:
        """Notes the time of the last step of an epoch."""
        if "epoch" in state:  # After the last step of an epoch, the loop of classifiers calls `save` instead of `due`.
            self.due()

    def step(self) -> float:
        """Returns the mean seconds of a step, without the first `warm` steps if there are more."""
        first = self.warm if len(self.times) > self.warm + 1 else 0
        return (self.times[-1] - self.times[first]) / max(1, len(self.times) - 1 - first)

    def before(self) -> float:
        """Returns the seconds up to the end of the first step, less one step: the time of compilation, for example."""
        return max(0.0, self.times[1] - self.times[0] - self.step()) if len(self.times) > 1 else 0.0


def measure(run: Run, data: Data, warm: int = WARM, steps: int = STEPS) -> Cost:
    """Returns the expected cost of a run, measured on the device that holds its data.

    warm, steps: the numbers of steps before the measurement and in it.
    """
    cuda, watch = data.device == "cuda", Stopwatch(data.device, warm, steps)
    with torch.random.fork_rng():
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        if isinstance(run.task, SegmentationTask):
            cost = _of_segmenter(run, run.task, narrowed(data, ScenePair, run.title), watch)
        elif isinstance(run.task, GanTask):
            cost = _of_gan(run, run.task, narrowed(data, Splits, run.title), watch)
        else:
            cost = _of_classifier(run, run.task, narrowed(data, Splits, run.title), watch)
    if not cuda:
        return cost
    memory = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    return Cost(cost.step, cost.steps, cost.rest, memory)


def _of_classifier(run: Run, task: Task, data: Splits, watch: Stopwatch) -> Cost:
    method = methods.build(run.variant.method, run.variant.options)
    model = models.get(task.model, "classifier")
    prepared_run = classifier.prepare(task, model, method, run.bound, run.seed, data)
    with contextlib.suppress(Enough):
        certified.fit(prepared_run, task, run.seed, lambda *_: None, watch)
    start = time.perf_counter()
    test = prepared_run.test
    part = test.pixels[: default_batch_size(test.pixels, data.device)]  # with the memory that all of them take
    logits(prepared_run.model, test, part, task.recipe.precision)
    rest = (time.perf_counter() - start) * len(test) / len(part)
    start = time.perf_counter()
    classifier.step_memory(prepared_run)
    rest += time.perf_counter() - start
    batches = prepared_run.train.batches(task.recipe.batch_size, task.recipe.drop_last, 0, augmentation(task.recipe))
    return Cost(watch.step(), batches.steps * task.recipe.epochs, rest + watch.before(), 0)


def _of_segmenter(run: Run, task: SegmentationTask, data: ScenePair, watch: Stopwatch) -> Cost:
    method = methods.build(run.variant.method, run.variant.options)
    model = models.get(task.model, "segmenter")
    prepared_run = segmentation.prepare(task, model, method, run.bound, run.seed, data)
    with contextlib.suppress(Enough):
        segmentation.fit(prepared_run, task, run.seed, lambda *_: None, watch)
    start = time.perf_counter()
    test, chosen = prepared_run.test, prepared_run.protocol
    some = np.arange(min(len(test), batch_size(chosen, data.device)))  # with the memory that all of them take
    for _ in predicted(prepared_run.model, test, test.pixels, some, chosen, task.recipe.precision):
        pass
    rest = (time.perf_counter() - start) * len(test) / len(some)
    start = time.perf_counter()
    segmentation.step_memory(prepared_run)
    rest += time.perf_counter() - start
    steps = Crops(prepared_run.train, task.recipe, chosen, 0).steps
    return Cost(watch.step(), steps * task.recipe.epochs, rest + watch.before(), 0)


def _of_gan(run: Run, task: GanTask, data: Splits, watch: Stopwatch) -> Cost:
    method = methods.build(run.variant.method, run.variant.options)
    model, apply_to = models.get(task.model, "gan"), run.variant.apply_to
    gan = trainer.prepare(task, model, method, run.bound, run.seed, data, apply_to)
    with contextlib.suppress(Enough):
        trainer.fit(gan, lambda *_: None, watch)
    start = time.perf_counter()
    trainer.step_memory(gan)
    return Cost(watch.step(), task.recipe.iterations, time.perf_counter() - start, 0)


def measure_all(todo: Iterable[Run], device: str) -> dict[Cell, Cost]:
    """Returns the expected cost of each kind, task and variant, measured on its first run."""
    first: dict[Cell, Run] = {}
    for run in todo:
        first.setdefault(run.cell, run)
    return dict(zip(first, _measured(list(first.values()), device), strict=True))


def advice(todo: Iterable[Run], costs: dict[Cell, Cost], device: str) -> list[str]:
    """Returns a line for each task in float32 whose training would be at least `ADVANTAGE` times as fast in bfloat16.

    It is measured on the first variant of each task of classifiers. It changes no run, since the precision is part of
    the run's id.
    """
    if not devices.has_bfloat16(device):
        return []
    first: dict[str, Run] = {}
    for run in todo:
        if isinstance(run.task, Task) and run.task.recipe.precision == "float32":
            first.setdefault(run.task.name, run)
    lines = []
    for run, cost in zip(first.values(), _measured([in_bfloat16(run) for run in first.values()], device), strict=True):
        faster = costs[run.cell].step / cost.step
        if faster >= ADVANTAGE:
            lines.append(f"{run.task.name}: bfloat16 would be {faster:.1f}x as fast here: `precision: bfloat16`")
    return lines


def in_bfloat16(run: Run) -> Run:
    """Returns the same run with bfloat16 in its recipe, which is a run with another id."""
    recipe = run.task.recipe.model_copy(update={"precision": "bfloat16"})
    task = run.task.model_copy(update={"recipe": recipe})
    return Run(run.kind, task, run.variant, run.seed, run.bound, run.code, run.title)


def _measured(runs: list[Run], device: str) -> list[Cost]:
    """Returns the expected cost of each run, and restores the number of threads of this process."""
    before, data, found = torch.get_num_threads(), dict[str, Data](), list[Cost]()
    with Progress("plan: measuring", max(1, len(runs))) as progress:
        for number, run in enumerate(runs):
            progress.update(number, f"{STEPS} steps of {run.task.name} {run.variant.name}")
            if run.bound.path not in data:
                intact.check_bound(run.bound)
                data = {run.bound.path: images.load(run.bound, device)}
            found.append(measure(run, data[run.bound.path]))
    torch.set_num_threads(before)
    return found
