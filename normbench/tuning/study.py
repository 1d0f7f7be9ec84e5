"""A study: a variant on a task, trained once for each point of the search, and what came of it, in a file of Optuna."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from normbench.data.bound import Bound
from normbench.runs.record import Record
from normbench.runs.run import Kind, Run
from normbench.runs.variant import Tuned, Variant
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.text import complain
from normbench.training.task import Task
from normbench.tuning import space
from normbench.tuning.space import Axis

NUMBER, DIVERGED = "number", "diverged"  # attributes of a trial: its place in the sequence of points


@dataclass(frozen=True)
class Study:
    """A variant on a task, without what was tuned before, and the space that is searched.

    bound: the dataset, with the validation images in the place of the test images. seed: of the runs. code: the digest
    of the training code.
    """

    task: Task
    variant: Variant
    bound: Bound
    seed: int
    code: str
    axes: dict[str, Axis]

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits: a hash of everything that shapes the values of its trials, but not their number."""
        options = {name.removeprefix("options.") for name in self.axes}
        task = self.task.identity()
        task["recipe"] = {key: value for key, value in task["recipe"].items() if key not in ("lr", "weight_decay")}
        variant = self.variant.identity()
        variant["options"] = {key: value for key, value in variant["options"].items() if key not in options}
        axes = {name: repr(axis) for name, axis in self.axes.items()}
        return files.hash_of([task, variant, self.bound.identity(), self.seed, self.code, axes])[:16]

    @property
    def name(self) -> str:
        """Task and variant, for people."""
        return f"{self.task.name} {self.variant.name}"

    @property
    def path(self) -> Path:
        """The journal in which Optuna keeps the trials."""
        return layout.store() / "studies" / f"{self.id}.journal"

    def point(self, number: int) -> dict[str, Any]:
        """The values of a trial, by axis."""
        return space.points(self.axes, self.task.seed, number + 1)[number]

    def run(self, number: int) -> Run:
        """The run of a trial, counted from 0. Its variant has a name of its own: it is no run of the suite."""
        tried = self.point(number)
        recipe = self.task.recipe.model_copy(update={key: tried[key] for key in ("lr", "weight_decay")})
        name = f"{self.variant.name}-trial-{number}"
        variant = self.variant.model_copy(update={"name": name, "options": self.variant.options | options_of(tried)})
        task, title = self.task.model_copy(update={"recipe": recipe}), f"{self.name} trial {number}"
        return Run(Kind.CLASSIFICATION, task, variant, self.seed, self.bound, self.code, title)

    @contextmanager
    def opened(self) -> Iterator[Trials]:
        """The finished trials, which no other process changes meanwhile. Waits if one does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            complain(f"study {self.id}: another process is at it; waiting for that")
            lock.acquire()
        try:
            yield Trials(self)
        finally:
            lock.release()


class Held(JournalFileOpenLock):
    """The lock of a journal that `Study.opened` holds already.

    Optuna's own locks are files, which a killed process leaves behind, and then the next one waits for ever.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Trials:
    """The finished trials of a study, by number. Each is one line of the journal, written at once and flushed to disk.

    Raises UserError if the journal cannot be read.
    """

    def __init__(self, study: Study):
        self.study = study
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        whole_lines(study.path)
        try:
            storage = JournalStorage(JournalFileBackend(str(study.path), Held(str(study.path))))
            self.stored = optuna.create_study(
                storage=storage, study_name=study.id, direction="maximize", load_if_exists=True
            )
            trials = self.stored.get_trials(states=[TrialState.COMPLETE])
            self.values = {trial.user_attrs[NUMBER]: float(trial.value or 0.0) for trial in trials}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{study.path}: cannot be read: {error}; move it away to begin anew") from None
        for name, text in (("task", study.task.name), ("variant", study.variant.name)):
            if name not in self.stored.user_attrs:
                self.stored.set_user_attr(name, text)

    def missing(self, count: int) -> list[int]:
        """The numbers of those of the first trials that are not finished."""
        return [number for number in range(count) if number not in self.values]

    def add(self, number: int, record: Record) -> None:
        """Stores the outcome of a trial: its accuracy on the validation images, or 0 if it diverged."""
        value = float(record.metrics.get("clean_accuracy") or 0.0)
        self.stored.add_trial(
            optuna.trial.create_trial(
                params=self.study.point(number),
                distributions={name: space.distribution(axis) for name, axis in self.study.axes.items()},
                value=value,
                user_attrs={NUMBER: number, DIVERGED: not record.finished},
            )
        )
        self.values[number] = value

    def best(self, count: int) -> int:
        """The number of the best of the first trials; of equal ones the first. They are all finished."""
        return max(range(count), key=lambda number: self.values[number])

    def tuned(self, count: int) -> Tuned:
        """The values of the best of the first trials, for params.yaml."""
        tried = self.study.point(self.best(count))
        return Tuned(
            lr=tried["lr"],
            weight_decay=tried["weight_decay"],
            options=options_of(tried),
            study=self.study.id,
            trials=count,
        )


def options_of(point: dict[str, Any]) -> dict[str, Any]:
    """The options of the method at a point."""
    return {name.removeprefix("options."): value for name, value in point.items() if name.startswith("options.")}


def whole_lines(path: Path) -> None:
    """Cuts off what a killed process has left of a line: Optuna would write behind it, and then read neither."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
