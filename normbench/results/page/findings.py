"""Tables that are shown as they are written: summaries across tasks, published numbers beside ours, and claims."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from normbench.results.page.grid import Cell, Column, Grid, Line
from normbench.results.page.names import Variants
from normbench.results.words import NONE, cited, interval, number

# Outcomes in words -> the verdict in whose colour and sign they are shown.
OUTCOMES = {"supported": "better", "contradicted": "worse", "undecided": "indistinguishable"}
OUTCOMES |= {"agrees": "better", "differs": "worse"}
OVERALL = (
    (Column("iqm", "Interquartile mean", "% [95 %]", "high"), 100, ".2f"),
    (Column("improvement", "Probability of improvement", "over the baseline, % [95 %]", "high"), 100, ".1f"),
    (Column("average_rank", "Average rank", "", "low"), 1, ".2f"),
)


def overall_grid(variants: Variants, table: pd.DataFrame) -> Grid:
    """Returns the summaries across tasks. table: overall.csv."""
    kept = [(column, factor, form) for column, factor, form in OVERALL if column.key in table]

    def cell(row: Mapping[str, float], key: str, factor: float, form: str) -> Cell:
        low, high = (factor * row.get(f"{key}_{end}", math.nan) for end in ("low", "high"))
        bounds = interval(low, high, form).replace("+", "")
        behind = Markup(' <span class="sd">{}</span>').format(bounds) if bounds else Markup("")
        return Cell(Markup("{}{}").format(number(factor * row[key], form), behind), factor * row[key])

    lines = [
        variants.line(row["variant"], [cell(row, column.key, factor, form) for column, factor, form in kept])
        for row in table.to_dict("records")
    ]
    return Grid("Across tasks", "Variant", [column for column, *_ in kept], lines)


def as_written(label: str, table: pd.DataFrame, leave: tuple[str, ...] = ()) -> Grid:
    """Returns any table, a column for each of its columns that has something; the first one names its lines.

    leave: columns that are not shown.
    """
    names = [name for name in table.columns if name not in leave and table[name].notna().any()]
    if not names:
        return Grid(label, "", [], [])
    numeric = {name: pd.api.types.is_numeric_dtype(table[name]) for name in names}
    columns = [Column(name, head(name), text=not numeric[name]) for name in names[1:]]
    lines = []
    for row in table.to_dict("records"):
        cells = [numbered(row[name]) if numeric[name] else worded(row[name]) for name in names[1:]]
        lines.append(Line(str(row[names[0]]), cells))
    return Grid(label, head(names[0]), columns, lines)


def head(name: str) -> str:
    """Returns a column's name as a heading."""
    return name.replace("_", " ").capitalize()


def numbered(value: float) -> Cell:
    """Returns the cell of a number."""
    return Cell(NONE if math.isnan(value) else f"{value:.5g}", float(value))


def worded(value: object) -> Cell:
    """Returns the cell of a text; an outcome has the sign of the verdict that it is like."""
    text = "" if isinstance(value, float) else str(value)
    return Cell(cited(text), text, OUTCOMES.get(text, ""))
