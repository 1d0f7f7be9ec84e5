"""What a table of the page is: columns that can be sorted, and a line for each variant, layer or run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from normbench.results.page.notes import Notes

SIGNS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}"}
SIGNS |= {"indistinguishable": "\N{ALMOST EQUAL TO}"}


LARGE = 2000  # cells


@dataclass(frozen=True)
class Column:
    """A column. key: unique in its table; for a compared measure, its name in comparisons.csv.

    best: which values are good, where that is known; sorting begins with them. text: whether it holds words. shown:
    whether it is shown before the reader asks for it.
    """

    key: str
    head: str
    small: str = ""
    best: Literal["high", "low", ""] = ""
    text: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell. value: what it is sorted by; NaN comes last. verdict: against the baseline, or empty.

    leads: whether it is the best of its column or indistinguishable from the best.
    """

    text: Markup | str
    value: float | str = math.nan
    verdict: str = ""
    leads: bool = False

    @property
    def key(self) -> str:
        """The value as an attribute of the cell; empty for NaN."""
        if isinstance(self.value, str):
            return self.value
        return "" if math.isnan(self.value) else f"{self.value:.7g}"

    @property
    def sign(self) -> str:
        """The sign of the verdict."""
        return SIGNS.get(self.verdict, "")


@dataclass(frozen=True)
class Line:
    """A line of a table. name: of its variant, or what else stands first. glyph: the marker of the variant in charts.

    tags: words behind the name. anchor: the id of the line, or empty.
    """

    name: str
    cells: list[Cell]
    glyph: Markup = field(default_factory=Markup)
    tags: tuple[str, ...] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Grid:
    """A table. label: its accessible name. first: the heading of the first column. notes: why cells are empty.

    measures: the keys of the columns whose variants were compared; only a table that has some gets the tools for that.
    remarks: sentences below the table.
    """

    label: str
    first: str
    columns: list[Column]
    lines: list[Line]
    notes: Notes | None = None
    measures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lines) and bool(self.columns)

    @property
    def large(self) -> bool:
        """Whether there are so many cells that the page has to lay out the table in parts."""
        return len(self.lines) * len(self.columns) > LARGE
