"""A table, the order of its rows, and its text as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

Row = dict[str, Any]  # column -> text or number; NaN where there is no number

# Formats of columns. Digits are fixed, so that a difference between two versions of a file is one of results.
PLAIN, COUNT, SHARE, PERCENT, REAL = "", ".0f", ".5f", ".3f", ".6g"


@dataclass(frozen=True)
class Table:
    """columns: name -> format of its values, from left to right. rows: may have more entries than there are columns."""

    columns: dict[str, str]
    rows: list[Row]

    def csv(self) -> str:
        """The table with its header; a cell without a number is empty."""
        texts = [[cell(row[name], form) for name, form in self.columns.items()] for row in self.rows]
        return pd.DataFrame(texts, columns=list(self.columns), dtype=str).to_csv(index=False, lineterminator="\n")


def cell(value: Any, form: str) -> str:
    """The text of a value; nothing for NaN."""
    return "" if isinstance(value, float) and math.isnan(value) else format(value, form)


def with_std(columns: Iterable[str], form: str) -> dict[str, str]:
    """Columns of one format, each followed by that of its standard deviation."""
    return {name: form for column in columns for name in (column, f"{column}_std")}


def ranked(rows: list[Row], column: str, falling: bool) -> list[Row]:
    """The rows by task, in the order in which tasks first appear; within a task the best value of a column first.

    Rows without a value are last. Rows of equal value keep their order.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sign = -1 if falling else 1

    def place(row: Row) -> tuple[int, bool, float]:
        missing = math.isnan(row[column])
        return tasks.index(row["task"]), missing, 0.0 if missing else sign * row[column]

    return sorted(rows, key=place)
