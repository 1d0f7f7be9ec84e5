"""The wide tables of a task in the report: robustness and smoothness, without columns that have no numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup, escape

from normbench.results.notes import Notes
from normbench.results.tables.reasons import MISSING, Why
from normbench.results.tables.robustness import BUILT_IN
from normbench.results.tables.table import Row
from normbench.results.words import number, quantity


@dataclass(frozen=True)
class Columns:
    """A table of the report.

    heads: for each column, its heading and the small print below. cells: variant -> the texts of its row. notes: why
    cells are empty.
    """

    heads: list[tuple[str, str]]
    cells: dict[str, list[str | Markup]]
    notes: Notes


# Heading, its small print, column of robustness.csv, factor and format.
ROBUSTNESS = (
    ("ECE", "clean, %", "ece", 100, ".2f"),
    ("ECE", "corrupted, %", "corrupted_ece", 100, ".2f"),
    ("NLL", "clean", "nll", 1, ".3f"),
    ("NLL", "corrupted", "corrupted_nll", 1, ".3f"),
    ("Relative mCE", "%", "relative_mce", 1, ".1f"),
    ("Corruption accuracy", "batch statistics, %", "batch_corruption_accuracy", 100, ".2f"),
    ("Attacked images", "clean, %", "attack_clean", 100, ".1f"),
    ("FGSM", "%", "attack_fgsm", 100, ".1f"),
    ("PGD", "%", "attack_pgd", 100, ".1f"),
    ("AutoAttack", "%", "auto_attack", 100, ".1f"),
)
KNOWN = {
    "task",
    "variant",
    "relative_mce",
    *BUILT_IN,
    "batch_mce",
    "warnings",
    MISSING,
}  # all columns but those of new scores

# Heading, its small print, column of smoothness.csv.
SMOOTHNESS = (
    ("Lipschitz", "at images", "lipschitz_local"),
    ("Lipschitz", "largest at images", "lipschitz_local_max"),
    ("Lipschitz", "bound", "lipschitz_bound"),
    ("Norms of layers", "sum of bounds", "layer_bound_sum"),
    ("Norms of layers", "largest bound", "layer_bound_max"),
)


def robustness_columns(variants: list[str], table: pd.DataFrame, why: dict[str, Why]) -> Columns:
    """Returns the columns of a task's robustness.csv.

    Those of scores that are not built in come last, under their own names.
    """
    own = [(name, "", name, 1, ".6g") for name in table.columns if name not in KNOWN]
    kept = [each for each in (*ROBUSTNESS, *own) if each[2] in table and table[each[2]].notna().any()]
    found = by_variant(table)
    notes = Notes(why, [each[2] for each in kept])
    cells: dict[str, list[str | Markup]] = {
        variant: [
            escape(number(factor * found[variant][column], form)) + notes.of(variant, column)
            for *_, column, factor, form in kept
        ]
        for variant in variants
    }
    return Columns([(head, small) for head, small, *_ in kept], cells, notes)


def smoothness_columns(variants: list[str], table: pd.DataFrame, why: dict[str, Why]) -> Columns:
    """Returns the columns of a task's smoothness.csv; those of certified accuracies come last."""
    columns: list[tuple[str, str, str, float]] = [(head, small, column, 1) for head, small, column in SMOOTHNESS]
    for column in table.columns:
        if column.startswith("certified_") and not column.endswith("_std"):
            columns.append(("Certified", f"within {column.removeprefix('certified_')}/255, %", column, 100))
    kept = [each for each in columns if table[each[2]].notna().any()]
    found = by_variant(table)

    notes = Notes(why, [each[2] for each in kept])

    def text(variant: str, column: str, factor: float) -> Markup:
        row = found[variant]
        return quantity(factor * row[column], factor * row[f"{column}_std"]) + notes.of(variant, column)

    cells: dict[str, list[str | Markup]] = {
        variant: [text(variant, column, factor) for *_, column, factor in kept] for variant in variants
    }
    return Columns([(head, small) for head, small, *_ in kept], cells, notes)


def suspicious(table: pd.DataFrame) -> list[str]:
    """Returns the variants of robustness.csv whose attacks cannot be trusted."""
    return [row["variant"] for row in table.to_dict("records") if row["warnings"]]


def by_variant(table: pd.DataFrame) -> dict[str, Row]:
    """Returns the rows of a table by variant."""
    return {row["variant"]: row for row in table.to_dict("records")}
