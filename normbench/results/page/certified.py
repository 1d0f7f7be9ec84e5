"""The table of certified accuracies of a task."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.certified import CERTIFICATES
from normbench.results.page.grid import Cell, Column, Grid
from normbench.results.page.names import PROVEN, Variants, measure
from normbench.results.page.notes import Notes
from normbench.results.page.verdicts import Verdicts
from normbench.results.tables.outcomes import certified
from normbench.results.tables.reasons import is_empty
from normbench.results.tables.table import Row
from normbench.results.words import measured


def certified_grid(variants: Variants, table: pd.DataFrame, verdicts: Verdicts) -> Grid:
    """Returns clean accuracy, and at each radius that under attack and the certified ones; a line for each variant.

    table: the rows of the task in certified.csv. verdicts: of the task.
    """
    if not len(table):
        return Grid("Certified robustness", "Variant", [], [])
    rows = {(row["variant"], row["radius"]): row for row in table.to_dict("records")}
    places: list[tuple[Column, str, float]] = [
        (Column("clean", "Clean", "same images, %", "high"), "clean", radius) for radius in table["radius"][:1]
    ]
    places += [
        (Column(key, measure(key).head, measure(key).small, "high"), name, radius)
        for name in PROVEN
        for radius in sorted(set(table["radius"]))
        for key in [certified(name, radius)]
        if table[name].notna().any()
    ]
    names = list(dict.fromkeys(table["variant"]))
    why = {
        variant: {
            column.key: row[f"no_{name}"]
            for column, name, radius in places
            for row in [rows.get((variant, radius), {})]
            if name in CERTIFICATES and not is_empty(row.get(f"no_{name}", ""))
        }
        for variant in names
    }
    notes = Notes(why, [column.key for column, *_ in places])

    def cell(variant: str, column: Column, name: str, radius: float) -> Cell:
        row: Row = rows.get((variant, radius), {})
        value, deviation = (100 * row.get(key, float("nan")) for key in (name, f"{name}_std"))
        verdict = verdicts.verdict(column.key, variant, variants.baseline)
        return Cell(measured(value, deviation, ".1f") + notes.of(variant, column.key), value, verdict)

    lines = [variants.line(name, [cell(name, *place) for place in places]) for name in names]
    columns = [column for column, *_ in places]
    compared = [column.key for column in columns if column.key in verdicts.measures]
    return Grid("Certified robustness", "Variant", columns, lines, notes, compared)
