"""The facts behind the numbers of the report: tasks, variants, datasets, devices, versions and revisions."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from normbench import methods
from normbench.data.bound import Masks
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import costed
from normbench.results.tables.means import Runs
from normbench.results.tables.portable import portable
from normbench.runs.record import Device, Git, Record
from normbench.runs.run import Kind
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Tuned, Variant
from normbench.suite import resolved
from normbench.suite.suite import Suite
from normbench.system.schema import ImageSize, Strict
from normbench.system.size import sides
from normbench.training.recipe import MemoryFormat, Precision

Value = TypeVar("Value")


class Counted(Strict, Generic[Value]):
    """A value, and the number of runs that have it."""

    value: Value
    runs: int


class TaskFacts(Strict):
    """A task, and the settings that decide the last digits of its results, besides the device.

    precision: that of the recipe, which all its runs have. memory_formats: those that its runs had; a run ignores the
    recipe's format if that would run into an error of the device's kernels. threads: of its runs on a CPU; null without
    such runs.
    """

    task: AnyTask
    precision: Precision
    memory_formats: list[MemoryFormat]
    threads: int | None


class VariantFacts(Strict):
    """A variant. about: the first paragraph of the docstring of the method's file, or null. tuned: its values by task.

    options: those that the variant has where it is not tuned, or else those of its first task.
    """

    method: str
    options: dict[str, Any]
    about: str | None
    tuned: dict[str, Tuned]


class DatasetFacts(Strict):
    """The facts about a prepared dataset that the report shows (see `normbench.data.bound.Bound`)."""

    name: str
    fingerprint: str
    classes: int
    channels: int
    image_size: ImageSize
    train: int
    test: int
    origin: str
    note: str | None
    masks: Masks | None = None

    @property
    def shape(self) -> str:
        """Height, width and channels of the images, such as `32x48x3`."""
        return "x".join(map(str, (*sides(self.image_size), self.channels)))


class Facts(Strict):
    """The facts behind the numbers of the report.

    tasks: by kind, since a task and a GAN task may have the same name. devices, versions, git: the distinct ones, in
    order of first appearance. devices_of_costs: devices of the runs whose speeds and times are shown. seconds: the sum
    over all runs. started, ended: the earliest start and the latest end, ISO 8601.
    """

    suite: Suite
    corruptions: Corruptions
    tasks: dict[Kind, dict[str, TaskFacts]]
    variants: dict[str, VariantFacts]
    datasets: dict[str, DatasetFacts]
    devices: list[Counted[Device]]
    devices_of_costs: list[Counted[Device]]
    versions: list[Counted[dict[str, str]]]
    git: list[Counted[Git]]
    runs: int
    seconds: float
    started: str
    ended: str


def facts(suite: Suite, corruptions: Corruptions, runs: dict[Kind, Runs]) -> Facts:
    """Returns the facts of all records of a suite. They contain no absolute path."""
    cells = [records for of_kind in runs.values() for records in of_kind.values()]
    records = [record for cell in cells for record in cell]
    origins = [record.provenance for record in records]
    datasets = {origin.dataset.name: origin.dataset for origin in origins}
    return Facts(
        suite=suite,
        corruptions=corruptions,
        tasks={kind: tasks(kind, of_kind) for kind, of_kind in runs.items()},
        variants=variants(runs),
        datasets={
            name: DatasetFacts.model_validate(
                bound.model_dump(include=set(DatasetFacts.model_fields)) | {"origin": portable(bound.origin)}
            )
            for name, bound in datasets.items()
        },
        devices=distinct(origin.device for origin in origins),
        devices_of_costs=distinct(record.provenance.device for cell in cells for record in costed(cell)),
        versions=distinct(origin.versions for origin in origins),
        git=distinct(origin.git for origin in origins),
        runs=len(records),
        seconds=sum(sum(record.cost.seconds.values()) for record in records),
        started=min(origin.started for origin in origins),
        ended=max(origin.ended for origin in origins),
    )


def tasks(kind: Kind, runs: Runs) -> dict[str, TaskFacts]:
    """Returns the tasks of one kind, by their names in the suite. A task without records is as it is resolved."""
    records: dict[str, list[Record]] = {}
    for (task, _), cell in runs.items():
        records.setdefault(task, []).extend(cell)
    return {task: of_task(own) if own else as_resolved(kind, task) for task, own in records.items()}


def of_task(records: list[Record]) -> TaskFacts:
    """Returns what the runs of a task have in common; the recipe is that of a variant that is not tuned, if any is."""
    numerics = [record.provenance.numerics for record in records]
    task = next((each for each in records if not each.provenance.variant.tuned), records[0]).provenance.task
    return TaskFacts(
        task=task.model_copy(update={"model": portable(task.model)}),
        precision=numerics[0].precision,
        memory_formats=list(dict.fromkeys(each.memory_format for each in numerics)),
        threads=next((each.threads for each in numerics if each.threads is not None), None),
    )


def as_resolved(kind: Kind, name: str) -> TaskFacts:
    """Returns what is known of a task without records."""
    task = resolved.task(kind, name)
    return TaskFacts(
        task=task.model_copy(update={"model": portable(task.model)}),
        precision=task.recipe.precision,
        memory_formats=[],
        threads=None,
    )


def variants(runs: dict[Kind, Runs]) -> dict[str, VariantFacts]:
    """Returns the variants of all kinds, by their names in the suite. Without records, one is as it is resolved."""
    used: dict[str, dict[str, Variant]] = {}
    for of_kind in runs.values():
        for (task, name), records in of_kind.items():
            own = used.setdefault(name, {})
            if records:
                own[task] = records[0].provenance.variant
    found = {}
    for name, by_task in used.items():
        first = next((each for each in by_task.values() if not each.tuned), next(iter(by_task.values()), None))
        variant = first or resolved.variant(name)
        found[name] = VariantFacts(
            method=portable(variant.method),
            options=variant.options,
            about=about(variant.method),
            tuned={task: each.applied for task, each in by_task.items() if each.applied is not None},
        )
    return found


def distinct(values: Iterable[Value]) -> list[Counted[Value]]:
    """Returns the distinct values in order of first appearance, each with its count."""
    found: list[Value] = []
    counts: list[int] = []
    for value in values:
        if value not in found:
            found.append(value)
            counts.append(0)
        counts[found.index(value)] += 1
    return [Counted(value=value, runs=count) for value, count in zip(found, counts, strict=True)]


def about(method: str) -> str | None:
    """Returns the first paragraph of the docstring of a method's file, with paper and arXiv id; None without a file.

    The file is read as text, because importing it would import torch, which takes seconds.
    """
    place, colon, _ = method.partition(":")
    path = Path(place) if colon else Path(methods.__file__).parent / f"{place}.py"
    if path.suffix != ".py" or not path.is_file():
        return None
    text = ast.get_docstring(ast.parse(path.read_bytes()))
    return " ".join(text.split("\n\n")[0].split()) if text else None
