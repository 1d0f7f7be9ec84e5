"""Tries the user's own methods and models before anything is trained: each variant in each task (see `checks/`).

The tests try what normbench itself has. What was in order is noted in build/checked.json, by the digests of its code,
its options and its shapes, and not tried again.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from normbench.checks import subjects
from normbench.data.bound import Bound, Masks
from normbench.data.pixels import IGNORED
from normbench.data.sources import registry as sources
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.run import Kind
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Variant
from normbench.segmentation.task import SegmentationTask
from normbench.suite import resolved
from normbench.suite.resolved import Resolved
from normbench.suite.runs import bound_dataset, bound_tasks
from normbench.suite.suite import Suite
from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.size import sides

CHECKED = Path("build/checked.json")
# The shape that is assumed of images before they are prepared, in models that take any number of classes and channels.
CLASSES, SIDE = 10, 32
CHANNELS: Literal[3] = 3


@dataclass(frozen=True)
class Cell:
    """A task and a variant. code: the digest of the training code. bound: the dataset, or what is known of it."""

    task: AnyTask
    variant: Variant
    code: str
    bound: Bound

    @property
    def is_tested(self) -> bool:
        """Whether the tests of normbench have tried it: its own method and model, on batches of several images."""
        own = ":" in self.variant.method or ":" in self.task.model
        return not own and subjects.last_batch(self.task, self.bound) > 1

    @property
    def is_penalized(self) -> bool:
        """Whether the task has a gradient penalty, for which some methods have no derivatives."""
        return isinstance(self.task, GanTask) and self.task.recipe.penalized > 0

    @property
    def fits(self) -> bool:
        """Whether the model takes images of this size; if it does not, the caller says so in its own words."""
        return models.get(self.task.model).size_problem(*sides(self.bound.image_size)) is None

    @functools.cached_property
    def key(self) -> str:
        """The hash of all that a trial depends on."""
        task = self.task.identity()
        shape = self.bound.model_dump(include={"classes", "channels", "image_size", "train", "mean", "std"})
        sources = methods.source_file(self.variant.method), models.get(self.task.model).source[0]
        texts = [*map(files.sha256, sources), *_code_of_checks()]  # whole files, as notes name their lines
        return files.hash_of([task, self.variant.identity(), self.code, shape, torch.__version__, texts])


def of_params(values: Resolved) -> list[Cell]:
    """The tasks and variants of a resolved params.yaml, as far as the shape of their images is known.

    Before a dataset is prepared, its number of classes and channels is assumed, but not for the user's own models.
    """
    known, _ = bound_tasks(values)
    found = []
    for kind in Kind:
        tasks, variants = values.suite.of_kind(kind)
        for name in tasks:
            task = values.tasks[kind][name]
            bound = known.get(name) or _assumed(task, values.datasets[task.dataset])
            code = values.training_digest(kind) if tasks else ""
            found += [Cell(task, values.variants[each], code, bound) for each in variants if bound is not None]
    return found


def of_files(suite: Suite) -> list[Cell]:
    """The tasks and variants of a suite whose resolved values and prepared data are in build."""
    return [
        Cell(task, resolved.variant(variant), resolved.training_digest(kind), bound_dataset(task.dataset))
        for kind in Kind
        for task in (resolved.task(kind, name) for name in suite.of_kind(kind)[0])
        for variant in suite.of_kind(kind)[1]
    ]


def check(tried: Iterable[Cell]) -> list[str]:
    """Tries the cells that are not known to be in order; returns notes about what is doubtful, a line each.

    Raises UserError with a line for each thing that is wrong. What the user's code prints goes to stderr.
    """
    tried = [cell for cell in tried if (cell.is_penalized or not cell.is_tested) and cell.fits]
    before = _read()
    new = [cell for cell in tried if cell.key not in before]
    notes: dict[str, list[str]] = {}
    problems: dict[str, str] = {}  # by the text without the names of the cell, so that each is said once
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a process that has used more must not be forked
    try:
        with contextlib.redirect_stdout(sys.stderr), Progress("check", max(1, len(new))) as progress:
            for number, cell in enumerate(new):
                name = f"variant {cell.variant.name}, task {cell.task.name}"
                progress.update(number, name)
                try:
                    notes[cell.key] = _try(cell, name)
                except UserError as error:
                    for line in error.args:
                        problems.setdefault(line.replace(name, ""), line)
    finally:
        torch.set_num_threads(threads)
    kept = {cell.key: before[cell.key] for cell in tried if cell.key in before} | notes
    if kept != before:
        files.write_json(CHECKED, kept)
    if problems:
        raise UserError(*problems.values())
    return list(dict.fromkeys(line for lines in kept.values() for line in lines))


def _try(cell: Cell, name: str) -> list[str]:
    method = methods.build(cell.variant.method, cell.variant.options)
    model = models.get(cell.task.model)
    if isinstance(cell.task, GanTask) and cell.is_tested:
        subjects.check_twice(cell.task, model, method, cell.bound, name, cell.variant.apply_to)
        return []
    return subjects.check(cell.task, model, method, cell.bound, name, cell.variant.apply_to)


def _assumed(task: AnyTask, dataset: dict[str, Any]) -> Bound | None:
    """A description of a dataset that is not prepared yet; None if the task's model is the user's own."""
    if ":" in task.model:
        return None
    model = models.get(task.model)
    size = dataset["image_size"] or sources.source_class(dataset["source"]).native_size
    if size is None:
        size = -(-max(SIDE, model.least_size) // model.divisor) * model.divisor
    some = [0.5] * CHANNELS
    masks = Masks(ignored=IGNORED, names=[""] * CLASSES) if isinstance(task, SegmentationTask) else None
    return Bound.model_construct(  # without the checks, because the numbers of images are not known
        name=task.dataset,
        path="",
        fingerprint="",
        classes=CLASSES,
        channels=CHANNELS,
        image_size=size,
        train=0,
        test=0,
        mean=some,
        std=some,
        origin="",
        masks=masks,
    )


def _read() -> dict[str, list[str]]:
    """What was in order; empty if nothing was, or the file is damaged."""
    try:
        found = files.read_json(CHECKED)
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(lines, list) for lines in found.values()) else {}


@functools.cache
def _code_of_checks() -> list[str]:
    folder = Path(subjects.__file__).parent
    return [files.sha256(path) for path in sorted(folder.glob("*.py"))]
