"""Records as a data frame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from normbench.results.records import found_in
from normbench.results.tables.runs import Named, cost_table, run_table
from normbench.system import layout


def load(folder: str | Path = layout.SCORES) -> pd.DataFrame:
    """Returns a data frame with one row for each scored run in a folder such as build/scores, in the suite or not.

    Columns: those of results/runs.csv (docs/results.md lists them), and the times of results/costs.csv:
    `images_per_second`, `iterations_per_second`, `seconds`, `compile_seconds` and `side_by_side`. A number that a run
    does not have is NaN. Rows are in the order of kinds, tasks, variants and seeds.

    folder: has the records as `<kind>/<task>/<variant>/<seed>.json`. A file that is no valid record is named on stderr
    and left out. Raises UserError if there is no record.

    >>> runs = load("build/scores")
    >>> runs.groupby(["task", "variant"])["clean_accuracy"].mean()
    """
    return run_frame((each.task, each.variant, each.record) for each in found_in(Path(folder)))


def run_frame(records: Iterable[Named]) -> pd.DataFrame:
    """Returns the data frame that `load` describes. records: the task, the variant and the record of each run."""
    named = list(records)
    runs, costs = run_table(named), cost_table(named)
    times = [name for name in costs.columns if name not in runs.columns]
    rows = [run | {name: cost[name] for name in times} for run, cost in zip(runs.rows, costs.rows, strict=True)]
    return pd.DataFrame(rows, columns=[*(name for name in runs.columns if name != "run"), *times, "run"])
