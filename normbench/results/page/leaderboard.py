"""The leaderboards of the page: of a task of any kind."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from markupsafe import Markup

from normbench.corruptions.constants import GROUPS
from normbench.results.page.grid import Cell, Column, Grid
from normbench.results.page.names import Measure, Variants, measure
from normbench.results.page.notes import Notes
from normbench.results.page.scores import by_variant
from normbench.results.page.verdicts import Verdicts
from normbench.results.tables.reasons import MISSING, Why, is_empty
from normbench.results.tables.table import Row
from normbench.results.words import measured, number

COSTS = (
    Column("images_per_second", "Speed", "images/s", "high"),
    Column("iterations_per_second", "Speed", "iterations/s", "high"),
    Column("ratio", "Speed", "of the baseline's", "high"),
    Column("seconds", "Time", "s a run", "low"),
    Column("compile_seconds", "Compilation", "s", "low"),
    Column("peak_memory_mib", "Peak memory", "MiB", "low"),
    Column("parameters", "Parameters", "", "low"),
    Column("finished", "Runs", "finished", "high"),
    Column("failed", "Failed", "runs", "low"),
)
GROUPED = {f"corruption_{group}": members for group, members in GROUPS.items()}  # measure -> its corruptions
HIDDEN = {"attack_fgsm", "compile_seconds", *GROUPED}  # until the reader asks for them
FORMS = {"images_per_second": ",.0f", "iterations_per_second": ",.1f", "ratio": ".2f"}
FORMS |= {"seconds": ",.1f", "compile_seconds": ",.1f"}
MCE = Column("mce", "mCE", "% of the baseline's", "low")


def leaderboard(
    rows: list[Row],
    means: pd.DataFrame,
    speeds: pd.DataFrame,
    verdicts: Verdicts,
    variants: Variants,
    why: dict[str, Why],
    links: dict[str, str],
) -> Grid:
    """Returns the leaderboard of a task of any kind.

    rows: of leaderboard.csv, segmentation.csv or gan.csv. means: by variant, the mean and the standard deviation
    (`<measure>_std`) of each compared measure. speeds: the rows of the task in speeds.csv. why: the reasons of empty
    cells. links: for each variant the address of its runs.
    """
    timed = by_variant(speeds)
    reasons = {row["variant"]: why.get(row["variant"], {}) | unsaid(timed.get(row["variant"], {})) for row in rows}
    measures = [name for name in dict.fromkeys([*FIRST, *GROUPED, *verdicts.measures]) if name in means.columns]
    costs = [column for column in COSTS if column.key not in FORMS or known(timed.values(), column.key)]
    heads = [with_default(column_of(name, measure(name))) for name in measures]
    if rows and "mce" in rows[0]:
        heads.insert(min(2, len(heads)), MCE)
    columns = heads + [with_default(column) for column in costs]
    notes = Notes(reasons, [column.key for column in columns if column.shown])
    leaders = {name: leading(verdicts, name, rows, means) for name in measures}

    def cell(row: Row, column: Column) -> Cell:
        name, key = row["variant"], column.key
        mark = notes.of(name, key)
        if key in leaders:
            return score(name, measure(key), means.loc[name], key, mark)
        if key == "mce":
            return Cell(number(row[key], ".1f") + mark, row[key])
        if key in FORMS:
            values = timed.get(name, {})
            value, deviation = values.get(key, math.nan), values.get(f"{key}_std", math.nan)
            return Cell(measured(value, deviation, FORMS[key]) + mark, value)
        if key == "finished":
            text = Markup('<a href="#{}">{}/{}</a>').format(links[name], row[key], row["runs"])
            return Cell(text, row[key])
        if key == "failed":
            return Cell(failures(row), row["runs"] - row["finished"])
        return Cell(number(row[key], ",.1f" if key == "peak_memory_mib" else ",.0f") + mark, row[key])

    def score(name: str, words: Measure, found: pd.Series, key: str, mark: Markup) -> Cell:
        mean, deviation = (words.factor * float(found[column]) for column in (key, f"{key}_std"))
        verdict = verdicts.verdict(key, name, variants.baseline)
        return Cell(measured(mean, deviation, ".2f") + mark, mean, verdict, name in leaders[key])

    lines = [variants.line(row["variant"], [cell(row, column) for column in columns]) for row in rows]
    return Grid("Leaderboard", "Variant", columns, lines, notes, [key for key in leaders if key in verdicts.measures])


FIRST = (
    "clean_accuracy",
    "corruption_accuracy",
    "mean_iou",
    "corruption_mean_iou",
    "pixel_accuracy",
    "corruption_pixel_accuracy",
    "fid",
)


def column_of(name: str, words: Measure) -> Column:
    """Returns the column of a measure."""
    return Column(name, words.head, words.small, words.best)


def with_default(column: Column) -> Column:
    """Returns a column that is hidden at first if it belongs to those."""
    return Column(column.key, column.head, column.small, column.best, shown=column.key not in HIDDEN)


def known(rows: Iterable[Row], key: str) -> bool:
    """Whether a column of speeds.csv says something: of a compilation of no time there is nothing to say.

    A ratio that is missing says that speeds cannot be compared, and why.
    """
    of = "images_per_second" if key == "ratio" else key
    values = [row.get(of, math.nan) for row in rows]
    return any(not math.isnan(value) and (value > 0 or key != "compile_seconds") for value in values)


def leading(verdicts: Verdicts, name: str, rows: list[Row], means: pd.DataFrame) -> set[str]:
    """Returns the leaders of a measure, among variants that are not tuned and among those tuned by as many trials."""
    found: set[str] = set()
    for tuned in {row.get("tuned", 0) for row in rows}:
        group = {row["variant"]: float(means.loc[row["variant"], name]) for row in rows if row.get("tuned", 0) == tuned}
        found |= verdicts.leaders(name, group, measure(name).best == "high")
    return found


def failures(row: Row) -> str:
    """Returns how many runs of a variant failed and how, or were left out: `1 diverged, 1 left out`."""
    left = row["runs"] - row["finished"] - row["failed"]
    counts = {"diverged": row["diverged"], "collapsed": row["collapsed"], "left out": left}
    return ", ".join(f"{count:.0f} {word}" for word, count in counts.items() if count > 0) or "0"


def unsaid(row: Row) -> Why:
    """Returns the reasons of a row of speeds.csv, which it has in words, for each of its empty cells."""
    words = row.get(MISSING)
    if not isinstance(words, str) or not words:
        return {}
    empty = [name for name, value in row.items() if is_empty(value) and name != MISSING]
    found: Why = {}
    for part in words.split("; "):
        names, colon, reason = part.partition(": ")
        own = [name for name in names.split(", ") if name in empty] if colon else []
        found |= dict.fromkeys(own or [name for name in empty if name not in found], reason if own else part)
    return found
