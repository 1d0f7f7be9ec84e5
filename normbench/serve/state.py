"""How far the suite is, from what the stages, sweeps and trainings leave on the disk."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from normbench.data.bound import Bound
from normbench.runs import store, under_way
from normbench.runs.finished import record_in
from normbench.runs.run import SCORED_IN, Kind, Run
from normbench.runs.under_way import Note
from normbench.suite import resolved
from normbench.suite.suite import Suite
from normbench.system import layout
from normbench.system.errors import UserError, line
from normbench.system.progress import duration

Name = tuple[Kind, str, str, int]  # kind, task, variant and seed
Cell = tuple[Kind, str, str]


@dataclass(frozen=True)
class Running:
    """A run that a process trains now. share: the finished part, 0..1. text: epoch, loss and speed."""

    kind: Kind
    task: str
    variant: str
    seed: int
    share: float
    text: str


@dataclass(frozen=True)
class State:
    """How far the suite is.

    runs: all that it asks for. trained, scored: those that are. waiting: those that are neither trained nor running.
    seconds_left: until all are trained, if as many train side by side as now; None if nothing says so. problem: why the
    runs of the suite are not known, or an empty text.
    """

    runs: int = 0
    trained: int = 0
    scored: int = 0
    waiting: int = 0
    running: list[Running] = field(default_factory=list)
    seconds_left: float | None = None
    problem: str = ""

    @property
    def summary(self) -> str:
        """One line: `12 of 30 runs trained, 2 running, 16 waiting, about 2 min 5 s left; 6 scored`."""
        if self.problem:
            return self.problem
        parts = [f"{self.trained} of {self.runs} runs trained"]
        parts += [f"{len(self.running)} running"] if self.running else []
        parts += [f"{self.waiting} waiting"] if self.waiting else []
        parts += [f"about {duration(self.seconds_left)} left"] if self.seconds_left is not None else []
        return f"{', '.join(parts)}; {self.scored} scored"

    def as_json(self) -> dict[str, Any]:
        """Returns the state as a JSON value, with its summary."""
        return asdict(self) | {"summary": self.summary}


def state() -> State:
    """Returns how far the suite in the working directory is, as it was last resolved."""
    try:
        suite = Suite.resolved()
        runs = {name: run_of(*name) for name in suite.names()}
    except FileNotFoundError:
        return State(problem="The suite is not prepared yet: `make results` does so, and trains it.")
    except (OSError, UserError) as error:
        return State(problem=line(error) if isinstance(error, OSError) else str(error))
    trained = {name for name, run in runs.items() if run is not None and store.done(run)}
    notes = {name: under_way.note(run.id) for name, run in runs.items() if run is not None and name not in trained}
    running = {name: found[0] for name, found in notes.items() if found is not None and found[1]}
    paused = {name: found[0].share for name, found in notes.items() if found is not None and not found[1]}
    waiting = [name for name in runs if name not in trained and name not in running]
    seconds: dict[Cell, list[float]] = {}
    for name in trained if running else ():
        spent = seconds_of(runs[name])
        if spent:
            seconds.setdefault(name[:3], []).append(spent)
    return State(
        runs=len(runs),
        trained=len(trained),
        scored=sum(is_scored(name) for name in trained),
        waiting=len(waiting),
        running=[Running(*name, note.share, note.text) for name, note in running.items()],
        seconds_left=seconds_left(running, {name: paused.get(name, 0.0) for name in waiting}, seconds),
    )


def run_of(kind: Kind, task: str, variant: str, seed: int) -> Run | None:
    """Returns a run of the suite; None if its dataset is not prepared yet. Raises UserError for damaged settings."""
    own = resolved.variant(variant).on(resolved.task(kind, task))
    try:
        bound = Bound.read(layout.BOUND / f"{task}.json")
    except FileNotFoundError:
        return None
    return Run(kind, *own, seed, bound, resolved.training_digest(kind))


def is_scored(name: Name) -> bool:
    """Whether the evaluation has written the record of a run."""
    kind, task, variant, seed = name
    return Path(SCORED_IN[kind] / task / variant / f"{seed}.json").is_file()


def seconds_of(run: Run | None) -> float:
    """Returns how long the training of a finished run took; 0 if it is gone in this moment."""
    if run is None:
        return 0.0
    try:
        found = store.record(run.id) if store.finished(run.id) else record_in(run.linked, whole=False)
    except UserError:
        return 0.0
    return sum(found.cost.seconds.values())


def seconds_left(
    running: dict[Name, Note], waiting: dict[Name, float], trained: dict[Cell, list[float]]
) -> float | None:
    """Returns the seconds until all runs are trained, if as many train side by side as now; None if nothing says so.

    waiting: the share of each that a checkpoint holds. trained: how long the finished runs took, by kind, task and
    variant. A run takes as long as the others of its task and variant, or as the mean of all.
    """
    expected = {cell: list(each) for cell, each in trained.items()}
    for name, note in running.items():
        if note.share > note.first:
            expected.setdefault(name[:3], []).append(note.seconds / (note.share - note.first))
    if not running or not expected:
        return None
    typical = {cell: statistics.fmean(each) for cell, each in expected.items()}
    other = statistics.fmean(typical.values())

    def rest(shares: Iterable[tuple[Name, float]]) -> list[float]:
        return [(1 - share) * typical.get(name[:3], other) for name, share in shares]

    now = rest((name, note.share) for name, note in running.items())
    return max(*now, (sum(now) + sum(rest(waiting.items()))) / len(now))
