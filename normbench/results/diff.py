"""`normbench diff`: which results have moved between two revisions, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from normbench.comparison.paired import Difference, paired
from normbench.comparison.verdicts import FEWEST, Verdict, judged
from normbench.results.revisions import MEANS, Revision, Rows
from normbench.system.text import clean, say

Cell = tuple[str, str, str]  # kind, task and variant

FINISHED = "finished"
# The columns of the tables that are no measures: names and texts, times, spreads and what follows from the seeds.
OTHERS = {"kind", "task", "variant", "method", "seed", "status", "device", "precision", "memory_format", "run"}
OTHERS |= {"tuned", "runs", "finished", "failed", "diverged", "collapsed", "mce_corruptions", "no_bound", "warnings"}
OTHERS |= {"images_per_second", "iterations_per_second", "seconds", "compile_seconds"}
OTHERS |= {"attack_examples", "auto_attack_examples", "missing", "protocol"}
TEXTS = ("_std", "_sampling", "_verdict")
FAILED = "failed runs"  # stands for a measure
# The measures whose better direction is known.
HIGHER = {"clean_accuracy", "corruption_accuracy", "batch_clean_accuracy", "batch_corruption_accuracy"}
HIGHER |= {"attack_clean", "attack_fgsm", "attack_pgd", "attack_pgd_long", "auto_attack"}
LOWER = {"nll", "brier", "ece", "corrupted_nll", "corrupted_brier", "corrupted_ece"}
LOWER |= {"fid", "fid_infinity", "classifier_kid", "inception_fid", "inception_fid_infinity", "inception_kid"}
HIGHER |= {"mean_iou", "pixel_accuracy", "corruption_mean_iou", "corruption_pixel_accuracy"}
PERCENT = HIGHER | {"ece", "corrupted_ece"}  # fractions, which are shown in percent
WIDE = 200  # characters of a line, where there is no terminal
FAILED = "failed runs"


@dataclass(frozen=True)
class Moved:
    """A number that has moved.

    before, after: means over the finished runs; NaN where there is none. change: after minus before. seeds: how many
    finished in both revisions, by which they are compared. low, high, p_holm, smallest_effect: of the change, as in
    comparisons.csv; NaN without a verdict. verdict: on what came after; empty without one, and then `why` says why.
    """

    kind: str
    task: str
    variant: str
    measure: str
    before: float
    after: float
    change: float
    seeds: int
    low: float = math.nan
    high: float = math.nan
    p_holm: float = math.nan
    smallest_effect: float = math.nan
    verdict: str = ""
    why: str = ""

    @property
    def cell(self) -> Cell:
        """Kind, task and variant."""
        return self.kind, self.task, self.variant


@dataclass(frozen=True)
class OtherRun:
    """A run that has another id after than before, since something that shapes it has changed."""

    kind: str
    task: str
    variant: str
    seed: int
    before: str
    after: str


@dataclass(frozen=True)
class Diff:
    """What is different between two revisions.

    before, after: their names. added, removed: the cells that only one of them has. without_runs: the revisions that
    have no runs.csv, so that only means can be compared.
    """

    before: str
    after: str
    added: list[Cell]
    removed: list[Cell]
    other_runs: list[OtherRun]
    moved: list[Moved]
    without_runs: list[str]


def diff(before: Revision, after: Revision) -> Diff:
    """Compares two revisions.

    Runs are paired by their seeds, since only the values of whole runs are in git. Where a revision has no runs.csv,
    the means of its tables are compared, without a verdict.
    """
    olds, news = _cells(before), _cells(after)
    common = [cell for cell in news if cell in olds]
    moved: list[Moved] = []
    measures: list[str] = []  # those of runs.csv, whose means in other tables say nothing new
    if before.runs and after.runs:
        measures = [name for name in dict.fromkeys([*after.runs[0], *before.runs[0]]) if is_measure(name)]
        moved += _moved_runs(_by_cell(before.runs), _by_cell(after.runs), common, measures)
    moved += [each for each in _moved_means(before, after, common) if each.measure not in measures]
    return Diff(
        before=before.name,
        after=after.name,
        added=[cell for cell in news if cell not in olds],
        removed=[cell for cell in olds if cell not in news],
        other_runs=_other_runs(before.runs or [], after.runs or []),
        moved=sorted(moved, key=lambda each: common.index(each.cell)),
        without_runs=[each.name for each in (before, after) if each.runs is None],
    )


def as_json(found: Diff) -> dict[str, Any]:
    """Returns a diff as a JSON value; a number that is not there is null."""
    value = dataclasses.asdict(found)
    for row in value["moved"]:
        row |= {key: None for key, each in row.items() if isinstance(each, float) and not math.isfinite(each)}
    return value


def tell(found: Diff) -> None:
    """Prints a diff for people."""
    say(f"{found.before} -> {found.after}")
    for word, cells in (("added", found.added), ("removed", found.removed)):
        for _, task, variant in cells:
            say(f"{word}: {task} {variant}")
    seeds: dict[Cell, list[int]] = {}
    for each in found.other_runs:
        seeds.setdefault((each.kind, each.task, each.variant), []).append(each.seed)
    for (_, task, variant), of_cell in seeds.items():
        say(f"runs with another id: {task} {variant}, seed{'s' * (len(of_cell) > 1)} {', '.join(map(str, of_cell))}")
    say(*(_table(found.moved) if found.moved else ["no number that both have has moved"]))
    for name in found.without_runs:
        say(f"{name} has no results/runs.csv: means are compared, without verdicts")
    if any(each.verdict for each in found.moved):
        say(
            "verdicts: runs are paired by seed, with Holm's correction over the variants whose runs have changed",
            "git has only the values of whole runs, by which less can be told than by the images (comparisons.csv)",
        )


def _table(moved: list[Moved]) -> list[str]:
    """Returns the lines of the table of all numbers that have moved."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("task", "variant", "measure"):
        table.add_column(heading, overflow="fold")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for each in moved:
        factor, form = (100, ".2f") if each.measure in PERCENT else (1, ".6g")
        name = f"{each.measure} (%)" if each.measure in PERCENT else each.measure
        numbers = [_number(factor * value, form) for value in (each.before, each.after)]
        numbers.append(_number(factor * each.change, f"+{form}"))
        texts = [each.task, each.variant, name, *numbers, _verdict(each, factor)]
        table.add_row(*(Text(clean(text)) for text in texts))  # not markup, which has colours and links
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    shown = io.StringIO()
    Console(file=shown, width=width, color_system=None).print(table)
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def _number(value: float, form: str) -> str:
    return "\N{EN DASH}" if math.isnan(value) else format(value, form)


def _verdict(each: Moved, factor: float) -> str:
    if each.verdict == Verdict.INDISTINGUISHABLE and not math.isnan(each.smallest_effect):
        effect = f"{factor * each.smallest_effect:.3g}"
        return f"{each.verdict} ({each.seeds} seeds would have shown {effect})"
    return each.verdict or f"none: {each.why}"


def _cells(revision: Revision) -> list[Cell]:
    """Returns the cells of a revision in the order of its tables."""
    found = [_cell(row) for row in revision.runs or []]
    found += [
        (kind, row["task"], row["variant"]) for table, kind in MEANS.items() for row in revision.means.get(table, [])
    ]
    return list(dict.fromkeys(found))


def _cell(run: dict[str, str]) -> Cell:
    return run["kind"], run["task"], run["variant"]


def _by_cell(runs: Rows) -> dict[Cell, Rows]:
    found: dict[Cell, Rows] = {}
    for run in runs:
        found.setdefault(_cell(run), []).append(run)
    return found


def _moved_runs(
    before: dict[Cell, Rows], after: dict[Cell, Rows], cells: list[Cell], measures: list[str]
) -> Iterator[Moved]:
    """Yields the measures of runs that have moved, and the numbers of failed runs that have."""
    for cell in cells:
        failed = [sum(run["status"] != FINISHED for run in runs.get(cell, [])) for runs in (before, after)]
        if failed[0] != failed[1]:
            yield _moved(cell, FAILED, failed[0], failed[1], why="it is a number of runs")
    for measure in measures:
        found: list[Moved] = []
        compared: dict[int, Difference] = {}
        for cell in cells:
            old, new = (_values(runs.get(cell, []), measure) for runs in (before, after))
            means = [statistics.fmean(values.values()) if values else math.nan for values in (old, new)]
            seeds = [seed for seed in new if seed in old]
            same = means[0] == means[1] and all(old[seed] == new[seed] for seed in seeds)
            if same or not (old or new):
                continue
            why = "" if direction(measure) else "it is not known whether high values are good"
            if not why and len(seeds) < FEWEST:
                why = f"seeds that finished in both: {len(seeds)} of at least {FEWEST}"
            if not why:
                compared[len(found)] = paired(*(np.array([values[seed] for seed in seeds]) for values in (new, old)))
            found.append(_moved(cell, measure, means[0], means[1], len(seeds), why))
        verdicts = judged(list(compared.values()), lower_is_better=direction(measure) < 0)
        for place, each in zip(compared, verdicts, strict=True):
            found[place] = dataclasses.replace(
                found[place],
                low=each.difference.low,
                high=each.difference.high,
                p_holm=each.adjusted,
                smallest_effect=each.smallest_effect if each.difference.error > 0 else math.nan,
                verdict=str(each.verdict),
            )
        yield from found


def _moved_means(before: Revision, after: Revision, cells: list[Cell]) -> Iterator[Moved]:
    """Yields the means that have moved in tables that have no values of runs."""
    for table, kind in MEANS.items():
        old, new = (
            {(kind, row["task"], row["variant"]): row for row in revision.means.get(table, [])}
            for revision in (before, after)
        )
        for cell in cells:
            if cell not in old or cell not in new:
                continue
            for measure in new[cell]:
                values = [number(rows[cell].get(measure, "")) for rows in (old, new)]
                same = values[0] == values[1] or all(map(math.isnan, values))
                if is_measure(measure) and measure in old[cell] and not same:
                    yield _moved(cell, measure, values[0], values[1], why="only its mean is known")


def _moved(cell: Cell, measure: str, before: float, after: float, seeds: int = 0, why: str = "") -> Moved:
    return Moved(*cell, measure, float(before), float(after), float(after - before), seeds, why=why)


def _values(runs: Rows, measure: str) -> dict[int, float]:
    """Returns the values of the finished runs that have one, by seed."""
    found = {int(run["seed"]): number(run.get(measure, "")) for run in runs if run["status"] == FINISHED}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _other_runs(before: Rows, after: Rows) -> list[OtherRun]:
    """Returns the runs of both revisions that have not the same id in both."""
    old = {(*_cell(run), int(run["seed"])): run["run"] for run in before}
    new = {(*_cell(run), int(run["seed"])): run["run"] for run in after}
    return [OtherRun(*place, old[place], run) for place, run in new.items() if old.get(place, run) != run]


def number(text: str) -> float:
    """Returns the number of a cell; NaN if it is empty or holds a text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_measure(column: str) -> bool:
    """Whether a column of the tables is a result."""
    return column not in OTHERS and not column.endswith(TEXTS)


def direction(measure: str) -> int:
    """Returns 1 if high values of a measure are good, -1 if low ones are, and 0 if that is not known."""
    return (measure in HIGHER) - (measure in LOWER)
