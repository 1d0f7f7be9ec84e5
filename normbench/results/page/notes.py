"""The notes under a table of the page: why cells have no number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from normbench.results.tables.marks import Marks
from normbench.results.tables.reasons import Why


class Notes:
    """The marks beside the cells of a table, and what they mean.

    why: variant -> the reasons of its row. shown: the columns of the table.
    """

    def __init__(self, why: Mapping[str, Why], shown: Iterable[str]):
        self.why = why
        self.marks = Marks(why.values(), shown)

    def of(self, variant: str, column: str) -> Markup:
        """Returns the mark of a cell, to stand behind its text; empty if there is nothing to say."""
        mark = self.marks.of(self.why.get(variant, {}), column)
        return Markup('<small class="mark">{}</small>').format(mark) if mark else Markup("")

    def reasons(self) -> list[tuple[str, str]]:
        """Returns each mark with its reason."""
        return self.marks.reasons()
