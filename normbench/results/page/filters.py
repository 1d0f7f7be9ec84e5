"""The pictures of the deconvolution filters of first layers, with what is known of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normbench.results.page.addresses import data_address
from normbench.results.tables.table import Row
from normbench.results.words import counted, signed


@dataclass(frozen=True)
class FilterPicture:
    """A picture of filters.

    steps: the Newton-Schulz steps after which they are shown. numbers: what they are like. colours: whether there is a
    row of them as colours. address: of the picture.
    """

    variant: str
    steps: str
    numbers: str
    colours: bool
    address: str

    @property
    def alt(self) -> str:
        """The alternative text."""
        return f"Deconvolution filters of the first layer of {self.variant} after {self.steps}: {self.numbers}"


def filter_pictures(table: pd.DataFrame, names: list[str], folder: Path) -> dict[str, list[FilterPicture]]:
    """Returns the pictures of each variant of a task that has some, in rising order of steps.

    table: the rows of the task in filters.csv, of which those of a variant's first run are the ones in its pictures.
    names: the variants in their order on the page. folder: the pictures, as `<variant>/<iterations>.png`.
    """
    if not len(table):
        return {}
    rows = table.groupby(["variant", "iterations"]).first().reset_index().to_dict("records")
    pictures = {name: [picture_of(row, folder) for row in rows if row["variant"] == name] for name in names}
    return {name: found for name, found in pictures.items() if found}


def picture_of(row: Row, folder: Path) -> FilterPicture:
    """Returns the picture of a row of filters.csv. folder: see `filter_pictures`."""
    return FilterPicture(
        row["variant"],
        counted(row["iterations"], "step") + (", as in the network" if own(row) else ""),
        described(row),
        has(row, "others"),
        data_address(folder / row["variant"] / f"{row['iterations']}.png"),
    )


def own(row: Row) -> bool:
    """Whether the network itself takes as many steps as a row of filters.csv."""
    return bool(row["iterations"] == row["own_iterations"])


def has(row: Row, column: str) -> bool:
    """Whether a row has a number in a column, which the table may not have."""
    return not math.isnan(row.get(column, math.nan))


def described(row: Row) -> str:
    """Returns the numbers of a row of filters.csv in words; those that are missing are left out."""
    parts = [f"neighbours {signed(row['ring'], 'z.2f')} of the centre"]
    if has(row, "others"):
        parts.append(f"other channels {signed(row['others'], 'z.2f')}")
    parts.append(f"sum {signed(row['sum'], 'z.2f')}")
    if has(row, "kurtosis_after") and has(row, "kurtosis_before"):
        before, after = (signed(row[f"kurtosis_{when}"], "z.1f") for when in ("before", "after"))
        parts.append(f"excess kurtosis {before} before and {after} after")
        before, after = (f"{100 * row[f'near_zero_{when}']:.1f}\N{NO-BREAK SPACE}%" for when in ("before", "after"))
        parts.append(f"near zero {before} before and {after} after")
    return ", ".join(parts)
