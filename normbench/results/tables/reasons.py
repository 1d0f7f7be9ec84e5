"""Why a cell of a table has no number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from normbench.results.tables.means import finished
from normbench.results.tables.table import Row, Table
from normbench.runs.record import Record

Why = dict[str, str]  # column -> the reason why it has no number
MISSING = "missing"  # the column of the CSV files that says so in words
UNTIMED = "no finished run was timed: none completed an epoch, or an interval of a GAN, in one process"


def explained(row: Row, columns: Iterable[str], why: Callable[[str], str]) -> Row:
    """Returns a row with two more entries: `why`, the reasons of its empty cells, and `missing`, the same in words.

    columns: those that should have a number. why: returns the reason for a column, and is asked for empty ones only.
    """
    found = {name: why(name) for name in columns if is_empty(row[name])}
    return row | {"why": found, MISSING: in_words(found)}


def is_empty(value: object) -> bool:
    """Whether a value of a table is shown as an empty cell."""
    return value == "" or (isinstance(value, float) and math.isnan(value))


def in_words(why: Why) -> str:
    """Returns reasons as one line, each once, after its columns: `mce: ...; nll, ece: ...`."""
    columns: dict[str, list[str]] = {}
    for column, reason in why.items():
        columns.setdefault(reason, []).append(column)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in columns.items())


def unfinished(records: list[Record]) -> str:
    """Returns why runs have no results: no record can be used, or all failed; an empty string if one did not."""
    if finished(records):
        return ""
    if not records:
        return "no record of its runs can be used"
    how = " or ".join(sorted({"collapsed" if record.finished else "diverged" for record in records}))
    return f"the run {how}" if len(records) == 1 else f"all {len(records)} runs {how}"


def unspread(records: list[Record], measured: int = 1) -> str:
    """Returns why there is no standard deviation. measured: how many of the runs have the number."""
    if len(records) == 1:
        return "one seed has no spread"
    if len(finished(records)) == 1:
        return f"1 of {len(records)} runs finished, and one run has no spread"
    return f"{measured} of {len(records)} runs has the number, and one run has no spread"


def unscored(records: list[Record], column: str, score: str | None) -> str:
    """Returns why finished runs have no number of a score.

    It is what the score itself says in the metric `missing`, or that `evaluation` has the score off. score: its key in
    `evaluation`; None if that is not known.
    """
    done = finished(records)
    for record in done:
        said = record.metrics.get(MISSING, {})
        if column in said:
            return said[column]
    if score is not None and all(is_off(record, score) for record in done):
        return f"`{score}` is off in `evaluation`"
    return "no finished run was scored with it"


def with_left_out(table: Table, left_out: Mapping[tuple[str, str], Mapping[int, str]], seeds: int) -> Table:
    """Returns a table whose rows also say, for the column `runs`, which records of the variant were left out and why.

    That column has the number of runs that there should be.

    left_out: (task, variant) -> seed -> why. seeds: the number of the suite's.
    """
    rows = []
    for row in table.rows:
        absent = left_out.get((row["task"], row["variant"]), {})
        if absent:
            each = ", ".join(f"seed {seed}: {why}" for seed, why in absent.items())
            found = row["why"] | {"runs": f"{seeds - len(absent)} of {seeds} records, the others left out ({each})"}
            row = row | {"why": found, MISSING: in_words(found)} | ({"runs": seeds} if "runs" in row else {})
        rows.append(row)
    return Table(table.columns, rows)


def is_off(record: Record, score: str) -> bool:
    """Whether a run was scored without a score that `evaluation` can turn on."""
    settings = record.provenance.evaluation
    return settings is not None and settings.get(score) is None
