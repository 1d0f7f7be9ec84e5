"""Marks beside empty cells, which point to the reasons under the table."""

from __future__ import annotations

from collections.abc import Iterable

from normbench.results.tables.reasons import Why


class Marks:
    """The marks of a table: a, b, ... for its reasons, in order of first appearance.

    why: the reasons of each row. shown: the columns of the table as it is shown; None for all. A column `x` also has
    the mark of `x_std`, since both share a cell.
    """

    def __init__(self, why: Iterable[Why], shown: Iterable[str] | None = None):
        names = None if shown is None else {name for column in shown for name in (column, f"{column}_std")}
        kept = [reason for row in why for column, reason in row.items() if names is None or column in names]
        self.marks = {reason: _letters(number) for number, reason in enumerate(dict.fromkeys(kept))}

    def of(self, why: Why, column: str) -> str:
        """Returns the mark of a cell; an empty string if it has its number and its spread."""
        reason = why.get(column) or why.get(f"{column}_std")
        return "" if reason is None else self.marks.get(reason, "")

    def reasons(self) -> list[tuple[str, str]]:
        """Returns each mark with its reason."""
        return [(mark, reason) for reason, mark in self.marks.items()]


def _letters(number: int) -> str:
    """Returns a, b, ..., z, aa, ab, ... for 0, 1, ..."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)
