"""Tables: their rows, the order of the rows, and the conversion to CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from normbench.results.tables.cells import csv_text

Row = dict[str, Any]  # column -> text or number; NaN where there is no number

# Formats of columns. The number of digits is fixed, so that two versions of a file differ only if results differ.
PLAIN, COUNT, SHARE, PERCENT, REAL = "", ".0f", ".5f", ".3f", ".6g"


@dataclass(frozen=True)
class Table:
    """A table. columns: name -> format of the values, from left to right. rows: may have further entries."""

    columns: dict[str, str]
    rows: list[Row]

    def csv(self) -> str:
        """Returns the table as CSV with a header; a cell without a number is empty, and no cell is a formula."""
        texts = [[cell(row[name], form) for name, form in self.columns.items()] for row in self.rows]
        return csv_text([list(self.columns), *texts])

    def without_empty(self) -> Table:
        """Returns the table without the columns that have no value in any row; a table without rows keeps all."""
        kept = {name for name in self.columns for row in self.rows if cell(row[name], self.columns[name])}
        return Table({name: form for name, form in self.columns.items() if name in kept or not self.rows}, self.rows)


def cell(value: Any, form: str) -> str:
    """Returns the text of a value; empty for NaN."""
    return "" if isinstance(value, float) and math.isnan(value) else format(value, form)


def with_std(columns: Iterable[str], form: str) -> dict[str, str]:
    """Returns columns of one format, each followed by the column of its standard deviation."""
    return {name: form for column in columns for name in (column, f"{column}_std")}


def ranked(rows: list[Row], column: str, falling: bool) -> list[Row]:
    """Returns the rows by task, in order of first appearance, and within a task by a column, the best value first.

    falling: whether high values are best. Rows without a value come last; rows of equal value keep their order.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sign = -1 if falling else 1

    def place(row: Row) -> tuple[int, bool, float]:
        missing = math.isnan(row[column])
        return tasks.index(row["task"]), missing, 0.0 if missing else sign * row[column]

    return sorted(rows, key=place)
