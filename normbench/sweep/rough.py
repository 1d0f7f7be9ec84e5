"""What the training of a suite would take here, before its data are: `normbench suite NAME` says it.

It is measured on images of noise, a few at a time and for two steps, so that it is ready soon even for large networks.
`normbench plan` measures more closely, on the data and with the batches of the recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normbench.data.batches import on_device
from normbench.data.bound import Bound
from normbench.data.prepared import Splits
from normbench.data.scenes import ScenePair, scenes
from normbench.data.sources import registry as sources
from normbench.gan.task import GanTask
from normbench.runs import provenance
from normbench.runs.images import Data
from normbench.runs.run import Kind, Run
from normbench.suite import trial
from normbench.suite.resolve import resolve
from normbench.suite.resolved import TASKS, Resolved
from normbench.suite.suite import Suite
from normbench.sweep import room
from normbench.sweep.cost import measure
from normbench.sweep.plan import makespan
from normbench.system import device as devices
from normbench.system import files
from normbench.system.progress import Progress, duration
from normbench.system.size import sides
from normbench.training.task import Task

WARM, STEPS = 1, 2
FEW, MORE = 2, 8  # images in the steps that are measured first on a CPU, where a whole batch may take minutes
SOON = 0.25  # seconds of such a step; if it takes less, a step of a whole batch is measured


@dataclass(frozen=True)
class Estimate:
    """The expected seconds of training of each run of a suite, in its order, by its title.

    unknown: the tasks whose model is the user's own, or whose number of training images is not known yet. Their runs
    are not in `seconds`.
    """

    seconds: dict[str, float]
    unknown: list[str]


def of_params(measured: bool = True) -> list[str]:
    """Returns what is said of the cost of params.yaml: its number of runs, and how long they train on this device.

    measured: whether to measure; otherwise only the runs are counted.
    """
    resolved = resolve()
    lines = [counted(resolved.suite)]
    if not measured:
        return lines
    device = devices.choose()
    found = estimate(resolved, device)
    if found.seconds:
        tasks = [task for kind in Kind for task in resolved.tasks[kind].values()]
        threads = max(task.recipe.threads for task in tasks)
        beside = room.processes(device, threads, 0, len(found.seconds))
        longest = max(found.seconds, key=found.seconds.__getitem__)
        lines += [
            f"about {duration(makespan(list(found.seconds.values()), beside))} of training on "
            f"{provenance.device(device).name}, {beside} side by side (from {STEPS} steps on noise; `normbench plan` "
            "measures more closely once the data are here)",
            f"the longest run is {longest}: {duration(found.seconds[longest])}",
        ]
    if found.unknown:
        lines.append(f"not in this estimate, as little is known before their data are here: {', '.join(found.unknown)}")
    return lines


def counted(suite: Suite) -> str:
    """Returns e.g. `24 runs: 2 tasks x 4 variants x 3 seeds`, with GANs after a comma."""
    parts = []
    for kind in Kind:
        tasks, variants = suite.of_kind(kind)
        if tasks and variants:
            of = {Kind.CLASSIFICATION: "", Kind.SEGMENTATION: " of segmentation", Kind.GAN: " of GANs"}[kind]
            numbers = ((len(tasks), "task"), (len(variants), "variant"), (len(suite.seeds), "seed"))
            parts.append(" x ".join(f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in numbers) + of)
    return f"{len(suite.names())} runs: {', '.join(parts) or 'no task has a variant'}"


def estimate(resolved: Resolved, device: str) -> Estimate:
    """Returns the expected seconds of training of each run of a suite, without evaluation."""
    cells = trial.of_params(resolved)
    known = {(cell.task.name, cell.variant.name): cell for cell in cells if _steps(resolved, cell) > 0}
    alike: dict[str, trial.Cell] = {}
    for cell in known.values():
        alike.setdefault(_key(cell), cell)
    before, per_step = torch.get_num_threads(), dict[str, float]()
    with Progress("suite: measuring", max(1, len(alike))) as progress:
        for number, (key, cell) in enumerate(alike.items()):
            progress.update(number, f"{cell.task.name} {cell.variant.name}")
            per_step[key] = _seconds_of_a_step(cell, device)
    torch.set_num_threads(before)
    seconds, unknown = dict[str, float](), list[str]()
    for _, task, variant, seed in resolved.suite.names():
        if (task, variant) in known:
            cell = known[task, variant]
            seconds[f"{task} {variant} seed {seed}"] = _steps(resolved, cell) * per_step[_key(cell)]
        else:
            unknown.append(task)
    return Estimate(seconds, list(dict.fromkeys(unknown)))


def _key(cell: trial.Cell) -> str:
    """The hash of what the time of a step depends on."""
    task, variant = cell.variant.on(cell.task)
    recipe = task.recipe.model_dump(mode="json")
    kept = {name: value for name, value in recipe.items() if name not in ("epochs", "iterations", "milestones", "lr")}
    shape = [*sides(cell.bound.image_size), cell.bound.channels]
    return files.hash_of([task.model, task.model_options, kept, shape, variant.identity(), cell.code])


def _steps(resolved: Resolved, cell: trial.Cell) -> int:
    """The number of training steps; 0 for a classifier of which the number of training images is not known."""
    task = cell.task
    if isinstance(task, GanTask):
        return task.recipe.iterations
    source = sources.source_class(resolved.datasets[task.dataset]["source"])
    images = cell.bound.train or source.train_images or 0
    used = images * (task.train_fraction if isinstance(task, Task) else 1)
    return math.ceil(used / task.recipe.batch_size) * task.recipe.epochs


def _seconds_of_a_step(cell: trial.Cell, device: str) -> float:
    """The seconds of a training step. If it takes long on a CPU, it is drawn from two steps on fewer images.

    Two, because penalties and constraints of the weights take as long with one image as with many.
    """
    batch = cell.task.recipe.batch_size
    if device != "cuda" and batch > MORE:
        more = _measured(cell, MORE, device)
        if more > SOON:
            slope = max(0.0, more - _measured(cell, FEW, device)) / (MORE - FEW)
            return more + slope * (batch - MORE)
    return _measured(cell, batch, device)


def _measured(cell: trial.Cell, count: int, device: str) -> float:
    """The seconds of a training step on this many images."""
    task, variant = cell.variant.on(cell.task)
    recipe, bound = task.recipe, cell.bound
    changed: dict[str, Any] = {"recipe": recipe.model_copy(update={"batch_size": count})}
    if isinstance(task, Task):
        changed |= {"label_noise": None, "train_fraction": 1.0}
    kind = next(kind for kind, known in TASKS.items() if isinstance(task, known))
    run = Run(kind, task.model_copy(update=changed), variant, 0, bound, cell.code)
    return measure(run, _noise(bound, (WARM + STEPS) * count, device), WARM, STEPS).step


def _noise(bound: Bound, count: int, device: str) -> Data:
    """Training images of noise, and one test image."""
    if bound.masks is not None:
        drawn, size = np.random.default_rng(0), (count, *sides(bound.image_size))
        colours = drawn.integers(256, size=(*size, bound.channels), dtype=np.uint8)
        masks = drawn.integers(bound.classes, size=size, dtype=np.uint8)
        both = (scenes(colours[:n], masks[:n], bound.mean, bound.std, device) for n in (count, 1))
        return ScenePair(*both)
    shape = (count, bound.channels, *sides(bound.image_size))
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % bound.classes
    train, test = (
        on_device(pixels[:n].permute(0, 2, 3, 1).contiguous(), labels[:n], bound.mean, bound.std, device)
        for n in (count, 1)
    )
    return Splits(train, test)
