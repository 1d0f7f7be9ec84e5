"""Records as a data frame."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from normbench.results.tables.costs import cost
from normbench.results.tables.leaderboard import corruption_accuracy
from normbench.results.tables.robustness import columns_of, score_columns
from normbench.results.tables.table import Row
from normbench.runs.record import Record
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.text import complain

NAMED = 20  # files that are no records which are named


def load(folder: str | Path = layout.SCORES) -> pd.DataFrame:
    """Returns a data frame with one row for each scored run in a folder such as build/scores, in the suite or not.

    Columns: `kind`, `task`, `variant`, `seed`; `status` (finished or diverged); `clean_accuracy`, `corruption_accuracy`
    (mean over corruptions and severities) and `fid`; every number that a score stores for results/robustness.csv, such
    as `nll` and `attack_pgd`; `images_per_second`, `peak_memory_mib`, `parameters`, `seconds` and `compile_seconds` as
    in results/leaderboard.csv; `run`, the run's id. A number that a run does not have is NaN. Rows are in the order of
    kinds, tasks, variants and seeds.

    folder: has the records as `<kind>/<task>/<variant>/<seed>.json`. A file that is no valid record is named on stderr
    and left out. Raises UserError if there is no record.

    >>> runs = load("build/scores")
    >>> runs.groupby(["task", "variant"])["clean_accuracy"].mean()
    """
    folder = Path(folder)
    found = [path for path in folder.glob("*/*/*/*.json") if path.stem.isdecimal()]
    paths = sorted(found, key=lambda path: (path.parts[:-1], int(path.stem)))
    if not paths:
        raise UserError(f"{folder}: has no records <kind>/<task>/<variant>/<seed>.json")
    records: dict[Path, Record] = {}
    bad: list[str] = []
    for path in paths:
        try:
            records[path] = Record.read(path)
        except (OSError, UserError) as error:
            bad.append(str(error))
    for text in bad[:NAMED]:
        complain(f"{text}; left out")
    if len(bad) > NAMED:
        complain(f"{folder}: {len(bad) - NAMED} more files are left out for such reasons")
    if not records:
        raise UserError(f"{folder}: none of its {len(paths)} records is valid")
    # Task and variant are those of the path, since a record keeps the names with which its run was trained.
    return run_table([(path.parts[-3], path.parts[-2], record) for path, record in records.items()])


def run_table(records: Iterable[tuple[str, str, Record]]) -> pd.DataFrame:
    """Returns the data frame that `load` describes. records: the task, the variant and the record of each run."""
    named = list(records)
    scores = list(score_columns(record for *_, record in named))
    return pd.DataFrame([_row(*each, scores) for each in named])


def _row(task: str, variant: str, record: Record, scores: list[str]) -> Row:
    """Returns the row of a record."""
    columns = columns_of(record)
    return {
        "kind": record.kind.value,
        "task": task,
        "variant": variant,
        "seed": record.seed,
        "status": record.status.value,
        "clean_accuracy": record.metrics.get("clean_accuracy", math.nan),
        "corruption_accuracy": corruption_accuracy(record) if "corruption_accuracy" in record.metrics else math.nan,
        "fid": record.metrics.get("fid", math.nan),
        **{name: columns.get(name, math.nan) for name in scores},
        **cost(record.cost),
        "run": record.run,
    }
