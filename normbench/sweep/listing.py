"""`normbench runs list`: the runs of the suite, finished or not, and the other runs in the run store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from normbench.runs import store
from normbench.runs.record import Record
from normbench.suite import runs
from normbench.suite.resolve import resolve
from normbench.sweep.states import Planned, State, of_runs
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.text import clean, say


@dataclass(frozen=True)
class Listed:
    """A row of the list.

    status: how a finished run ended, or the state of another. of_suite: whether the suite has the run.
    """

    run: str
    task: str
    variant: str
    seed: int
    status: str
    clean_accuracy: float | None
    of_suite: bool


def listed() -> tuple[list[Listed], dict[str, str]]:
    """Returns the runs of the suite, then the others in the store; and, by name, why datasets are not prepared."""
    resolved = resolve()
    bound, absent = runs.bound_tasks(resolved)
    suite = of_runs(runs.of_suite(resolved, bound))
    found = [of_planned(each) for each in suite]
    known = {each.run.id for each in suite}
    found += [of_record(store.record(run), of_suite=False) for run in store.all_finished() if run not in known]
    return found, absent


def of_planned(planned: Planned) -> Listed:
    """Returns the row of a run of the suite."""
    run = planned.run
    if store.finished(run.id):
        return of_record(store.record(run.id), of_suite=True, names=(run.task.name, run.variant.name))
    status = str(planned.state)
    if planned.state is State.UNFINISHED:
        status = f"unfinished, at {100 * planned.share:.0f} %"
    elif planned.state is State.DONE:
        status = "finished, not in the store"
    return Listed(run.id, run.task.name, run.variant.name, run.seed, status, None, True)


def of_record(record: Record, of_suite: bool, names: tuple[str, str] | None = None) -> Listed:
    """Returns the row of a finished run.

    names: the names of its task and variant in the suite, if they may differ from those in the record.
    """
    task, variant = names or record.name[:2]
    accuracy = record.metrics.get("clean_accuracy")
    return Listed(record.run, task, variant, record.seed, record.status, accuracy, of_suite)


def show() -> None:
    """Prints a line for each run: id, task, variant, seed, status, clean accuracy."""
    from tabulate import tabulate

    found, absent = listed()
    rows: list[list[Any]] = []
    for each in found:
        accuracy = "" if each.clean_accuracy is None else f"{each.clean_accuracy:.4f}"
        rows.append([clean(text) for text in (each.run, each.task, each.variant, each.seed, each.status, accuracy)])
    headers = ["id", "task", "variant", "seed", "status", "clean accuracy"]
    say(*tabulate(rows, headers, disable_numparse=True).split("\n"))
    for dataset, why in absent.items():
        say(f"dataset {dataset}: {why}, so that its runs are not known; make it with `dvc repro bind`")
    others = sum(not each.of_suite for each in found)
    if others:
        say(f"the last {others} are not of the suite as params.yaml has it")


def chosen(ids: list[str]) -> list[str]:
    """Returns the ids of the finished runs that begin with one of the given ids; without any, those of the suite.

    Raises UserError if an id fits no run or several, and if no run of the suite is finished.
    """
    there = store.all_finished()
    if not ids:
        resolved = resolve()
        suite = runs.of_suite(resolved, runs.bound_tasks(resolved)[0])
        found = [run.id for run in suite if store.finished(run.id)]
        if not found:
            raise UserError(f"{layout.store()}: no finished run of the suite is there; `normbench sweep` trains them")
        return found
    found = []
    for wanted in ids:
        fits = [run for run in there if run.startswith(wanted)]
        if len(fits) != 1:
            problem = f"{len(fits)} runs begin so" if fits else "no such finished run; `normbench runs list` has all"
            raise UserError(f"{wanted}: {problem}")
        found += fits
    return found
