"""Where the numbers of the report come from: tasks, variants, datasets, devices, versions and revisions."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from normbench import methods
from normbench.gan.task import GanTask
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import costed
from normbench.results.tables.means import Runs
from normbench.results.tables.portable import portable
from normbench.runs.record import Device, Git, Record
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system.schema import Strict
from normbench.training.recipe import MemoryFormat, Precision
from normbench.training.task import Task

Value = TypeVar("Value")


class Counted(Strict, Generic[Value]):
    """A value that several runs have. runs: how many."""

    value: Value
    runs: int


class TaskFacts(Strict):
    """A task, and on what the last digits of its results depend beside the device.

    precision: that of its recipe, which all runs have. memory_formats: those that its runs had; where one would break a
    kernel of the device, a run leaves that of the recipe. threads: of a run on a CPU; null where none was on one.
    """

    task: Task | GanTask
    precision: Precision
    memory_formats: list[MemoryFormat]
    threads: int | None


class VariantFacts(Strict):
    """A variant. about: the first paragraph of the docstring of the method's file, or null."""

    method: str
    options: dict[str, Any]
    about: str | None


class DatasetFacts(Strict):
    """What readers are told of a prepared dataset (see `normbench.data.bound.Bound`)."""

    name: str
    fingerprint: str
    classes: int
    channels: int
    image_size: int
    train: int
    test: int
    origin: str
    note: str | None


class Facts(Strict):
    """What the report says about the origin of its numbers.

    tasks: by kind, since a task and a GAN task may have one name. devices, versions, git: the distinct ones, in the
    order of their first appearance. devices_of_costs: of the runs whose speeds and times are shown. seconds: of all
    runs together. started, ended: the earliest and the latest, ISO 8601.
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
    """The facts of all records of a suite. No absolute path is in them."""
    cells = [records for of_kind in runs.values() for records in of_kind.values()]
    records = [record for cell in cells for record in cell]
    origins = [record.provenance for record in records]
    datasets = {origin.dataset.name: origin.dataset for origin in origins}
    return Facts(
        suite=suite,
        corruptions=corruptions,
        tasks={kind: tasks(of_kind) for kind, of_kind in runs.items()},
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


def tasks(runs: Runs) -> dict[str, TaskFacts]:
    """The tasks of one kind, by the names that the suite has for them."""
    records: dict[str, list[Record]] = {}
    for (task, _), cell in runs.items():
        records.setdefault(task, []).extend(cell)
    return {task: of_task(own) for task, own in records.items()}


def of_task(records: list[Record]) -> TaskFacts:
    """What the runs of a task have in common."""
    numerics = [record.provenance.numerics for record in records]
    task = records[0].provenance.task
    return TaskFacts(
        task=task.model_copy(update={"model": portable(task.model)}),
        precision=numerics[0].precision,
        memory_formats=list(dict.fromkeys(each.memory_format for each in numerics)),
        threads=next((each.threads for each in numerics if each.threads is not None), None),
    )


def variants(runs: dict[Kind, Runs]) -> dict[str, VariantFacts]:
    """The variants of all kinds, by the names that the suite has for them."""
    found = {}
    for of_kind in runs.values():
        for (_, name), records in of_kind.items():
            variant = records[0].provenance.variant
            method = portable(variant.method)
            found[name] = VariantFacts(method=method, options=variant.options, about=about(variant.method))
    return found


def distinct(values: Iterable[Value]) -> list[Counted[Value]]:
    """The different values in the order of their first appearance, each with how often it was there."""
    found: list[Value] = []
    counts: list[int] = []
    for value in values:
        if value not in found:
            found.append(value)
            counts.append(0)
        counts[found.index(value)] += 1
    return [Counted(value=value, runs=count) for value, count in zip(found, counts, strict=True)]


def about(method: str) -> str | None:
    """The first paragraph of the docstring of a method's file: paper and arXiv id. None where there is no such file.

    The file is read as text. To import it would take torch, and seconds that this stage does not need.
    """
    place, colon, _ = method.partition(":")
    path = Path(place) if colon else Path(methods.__file__).parent / f"{place}.py"
    if path.suffix != ".py" or not path.is_file():
        return None
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return " ".join(text.split("\n\n")[0].split()) if text else None
