"""`normbench plan`: what `dvc repro` or a sweep would train, why, and how long it would take."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

from normbench.runs import provenance
from normbench.suite import runs, trial
from normbench.suite.resolve import resolve
from normbench.sweep import room
from normbench.sweep.cost import STEPS, Cell, Cost, advice, measure_all
from normbench.sweep.states import Planned, State, of_runs
from normbench.system import device as devices
from normbench.system.progress import duration
from normbench.system.text import clean, say


@dataclass(frozen=True)
class Plan:
    """The state of every run of the suite, and the expected cost of training the runs that are not done.

    absent: datasets that are not prepared here, with the reasons; their runs are not included. costs: of one run of
    each kind, task and variant; empty without a measurement. side_by_side, seconds: the number of parallel runs and the
    duration of a sweep; None without a measurement.
    """

    planned: list[Planned]
    absent: dict[str, str]
    device: str
    costs: dict[Cell, Cost]
    advice: list[str]
    side_by_side: int | None
    seconds: float | None

    @property
    def todo(self) -> list[Planned]:
        """The runs that are not done."""
        return [each for each in self.planned if each.state is not State.DONE]


def make(measured: bool) -> Plan:
    """Returns the plan for params.yaml as it is. measured: whether to time 20 training steps of each variant."""
    resolved = resolve()
    trial.check(trial.of_params(resolved))
    bound, absent = runs.bound_tasks(resolved)
    planned, device = of_runs(runs.of_suite(resolved, bound)), devices.choose()
    todo = [each for each in planned if each.state is not State.DONE]
    if not measured or not todo:
        return Plan(planned, absent, device, {}, [], None, None)
    waiting = [each.run for each in todo]
    costs = measure_all(waiting, device)
    memory = room.bytes_of_a_run(waiting, costs.values())
    beside = room.processes(device, room.threads_of(waiting), memory, len(waiting))
    seconds = makespan([costs[each.run.cell].seconds(each.share) for each in todo], beside)
    return Plan(planned, absent, device, costs, advice(waiting, costs, device), beside, seconds)


def makespan(seconds: list[float], processes: int) -> float:
    """Returns the time that jobs take in their order, when each starts as soon as one of `processes` processes is free.

    seconds: of each job.
    """
    ends = [0.0] * processes
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def show(plan: Plan) -> None:
    """Prints the plan: the table, unfinished runs, the reasons of stale runs, advice, and the total."""
    print_table(plan)
    for each in plan.planned:
        if each.state is State.UNFINISHED:
            say(f"unfinished: {each.run.title}: goes on from a checkpoint at {each.position}")
    for line in [*reasons(plan.planned), *plan.advice]:
        say(line)
    for dataset, why in plan.absent.items():
        say(f"dataset {dataset}: {why}, so that its runs are not known; make it with `dvc repro bind`")
    say(total(plan))


def print_table(plan: Plan) -> None:
    """Prints a row for each task and variant: the number of runs in each state, and the cost of a run."""
    from tabulate import tabulate

    cells: dict[Cell, list[Planned]] = {}
    for each in plan.planned:
        cells.setdefault(each.run.cell, []).append(each)
    rows = []
    for cell, group in cells.items():
        row: list[Any] = [*map(clean, cell[1:]), *(sum(each.state is state for each in group) or "" for state in State)]
        if cell in plan.costs:
            row += [f"{1000 * plan.costs[cell].step:.1f}", duration(plan.costs[cell].seconds())]
        rows.append(row)
    headers = ["task", "variant", *State, *(["ms/step", "a run"] if plan.costs else [])]
    if rows:
        say(*tabulate(rows, headers, tablefmt="simple", disable_numparse=True).split("\n"))


def reasons(planned: list[Planned]) -> list[str]:
    """Returns a line for each task and variant with stale runs: `stale: t v, seeds 0, 1: model code`."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for each in planned:
        if each.reasons:
            task, variant, seed = each.run.name
            found.setdefault((task, variant, "; ".join(each.reasons)), []).append(seed)
    return [
        f"stale: {task} {variant}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {why}"
        for (task, variant, why), seeds in found.items()
    ]


def total(plan: Plan) -> str:
    """Returns e.g. `4 of 6 runs to train, about 2 min 5 s in a sweep on ..., 2 side by side (...)`."""
    line = f"{len(plan.todo)} of {len(plan.planned)} runs to train"
    if plan.seconds is None:
        return line
    name = provenance.device(plan.device).name
    threads = room.threads_of(each.run for each in plan.todo)
    line += f", about {duration(plan.seconds)} in a sweep on {name}, {plan.side_by_side} side by side"
    line += f", {threads} threads each" if threads > 1 and plan.device == "cpu" else ""
    return f"{line} (from {STEPS} steps of each; without the evaluation)"


def as_json(plan: Plan) -> dict[str, Any]:
    """Returns the plan as a JSON value."""
    listed = []
    for each in plan.planned:
        task, variant, seed = each.run.name
        cost = plan.costs.get(each.run.cell)
        listed.append(
            {
                "run": each.run.id,
                "kind": each.run.kind,
                "task": task,
                "variant": variant,
                "seed": seed,
                "state": each.state,
                "reasons": each.reasons,
                "share": each.share,
                "seconds": None if cost is None or each.state is State.DONE else cost.seconds(each.share),
            }
        )
    return {
        "runs": listed,
        "absent": plan.absent,
        "advice": plan.advice,
        "device": plan.device,
        "side_by_side": plan.side_by_side,
        "seconds": plan.seconds,
    }
