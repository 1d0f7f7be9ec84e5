"""Which runs there are: those of the suite, finished or not, and others in the run store."""

from __future__ import annotations

from typing import Any

from normbench.runs import run as runs
from normbench.runs import store
from normbench.suite.resolve import resolve
from normbench.sweep import plan
from normbench.system import layout
from normbench.system.errors import UserError


def show() -> None:
    """Prints a line for each run: id, task, variant, seed, status, clean accuracy; those of the suite first."""
    from tabulate import tabulate

    resolved = resolve(layout.PARAMS)
    bound, absent = runs.bound_tasks(resolved)
    suite = plan.of_runs(runs.of_suite(resolved, bound))
    rows = []
    for each in suite:
        finished = store.finished(each.run.id)
        result = outcome(store.record(each.run.id)) if finished else [in_words(each), ""]
        rows.append([each.run.id, *each.run.name, *result])
    known = {each.run.id for each in suite}
    others = [run for run in store.all_finished() if run not in known]
    for run in others:
        record = store.record(run)
        origin = record["provenance"]
        names = origin["task"]["name"], origin["variant"]["name"]
        rows.append([run, *names, record["seed"], *outcome(record)])
    print(tabulate(rows, ["id", "task", "variant", "seed", "status", "clean accuracy"], disable_numparse=True))
    for dataset, why in absent.items():
        print(f"dataset {dataset}: {why}, so that its runs are not known; make it with `dvc repro bind`")
    if others:
        print(f"the last {len(others)} are not of the suite as params.yaml has it")


def outcome(record: dict[str, Any]) -> list[str]:
    accuracy = record["metrics"].get("clean_accuracy")
    return [record["status"], "" if accuracy is None else f"{accuracy:.4f}"]


def in_words(planned: plan.Planned) -> str:
    """`missing`, `unfinished, at 40 %`; `done` is a run that only the output of its stage has."""
    if planned.state == "unfinished":
        return f"unfinished, at {100 * planned.share:.0f} %"
    return "finished, not in the store" if planned.state == "done" else planned.state


def chosen(ids: list[str]) -> list[str]:
    """The ids of finished runs that begin as those given do; of all of the suite where none is given."""
    there = store.all_finished()
    if not ids:
        resolved = resolve(layout.PARAMS)
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
