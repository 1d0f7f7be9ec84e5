"""The tables of a task's further scores: of GANs, robustness, smoothness. Columns without numbers are left out."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd

from normbench.gan.evaluation import BOUND
from normbench.results.charts.chart import sentence
from normbench.results.page.grid import Cell, Column, Grid
from normbench.results.page.names import Variants
from normbench.results.page.notes import Notes
from normbench.results.page.verdicts import Verdicts
from normbench.results.tables.gan import FIDS
from normbench.results.tables.gan_markdown import Score, known_scores
from normbench.results.tables.reasons import MISSING, Why
from normbench.results.tables.robustness import BUILT_IN
from normbench.results.tables.table import Row
from normbench.results.words import measured, quantity

# The column, its factor and the format of its numbers.
ROBUSTNESS = (
    (Column("ece", "ECE", "clean, %", "low"), 100, ".2f"),
    (Column("corrupted_ece", "ECE", "corrupted, %", "low"), 100, ".2f"),
    (Column("nll", "NLL", "clean", "low"), 1, ".3f"),
    (Column("corrupted_nll", "NLL", "corrupted", "low"), 1, ".3f"),
    (Column("relative_mce", "Relative mCE", "%", "low"), 1, ".1f"),
    (Column("batch_corruption_accuracy", "Corruption accuracy", "batch statistics, %", "high"), 100, ".2f"),
    (Column("attack_clean", "Attacked images", "clean, %", "high"), 100, ".1f"),
    (Column("attack_fgsm", "FGSM", "%", "high"), 100, ".1f"),
    (Column("attack_pgd", "PGD", "%", "high"), 100, ".1f"),
    (Column("attack_pgd_long", "PGD", "long, %", "high"), 100, ".1f"),
    (Column("auto_attack", "AutoAttack", "%", "high"), 100, ".1f"),
)
# All columns but those of new scores.
KNOWN = {"task", "variant", "relative_mce", *BUILT_IN, "batch_mce", "warnings", MISSING}

SMOOTHNESS = (
    Column("lipschitz_local", "Lipschitz", "at images", "low"),
    Column("lipschitz_local_max", "Lipschitz", "largest at images", "low"),
    Column("lipschitz_bound", "Lipschitz", "bound", "low"),
    Column("layer_bound_sum", "Norms of layers", "sum of bounds", "low"),
    Column("layer_bound_max", "Norms of layers", "largest bound", "low"),
    Column("layer_estimate_mean", "Norms of layers", "mean estimate", "low"),
)
CERTIFIED = "certified_"


def robustness_grid(
    variants: Variants, table: pd.DataFrame, runs: pd.DataFrame, verdicts: Verdicts, why: dict[str, Why]
) -> Grid:
    """Returns the table of robustness.csv, with spreads over the finished runs; columns of new scores come last.

    table, runs: the rows of the task in robustness.csv and in runs.csv.
    """
    own = [(Column(name, name), 1, ".4g") for name in table.columns if name not in KNOWN]
    kept = [each for each in (*ROBUSTNESS, *own) if each[0].key in table and table[each[0].key].notna().any()]
    notes = Notes(why, [column.key for column, *_ in kept])
    names = [column.key for column, *_ in kept if column.key in runs.columns]
    spreads = runs[runs["status"] == "finished"].groupby("variant")[names].std(ddof=1).to_dict("index") if names else {}

    def cell(row: Row, column: Column, factor: float, form: str) -> Cell:
        deviation = spreads.get(row["variant"], {}).get(column.key, math.nan)
        text = measured(factor * row[column.key], factor * deviation, form)
        return Cell(
            text + notes.of(row["variant"], column.key),
            factor * row[column.key],
            verdicts.verdict(column.key, row["variant"], variants.baseline),
        )

    found = by_variant(table)
    return Grid(
        "Calibration and robustness",
        "Variant",
        [column for column, *_ in kept],
        [variants.line(name, [cell(row, *each) for each in kept]) for name, row in found.items()],
        notes,
        [column.key for column, *_ in kept if column.key in verdicts.measures],
        suspicious(table),
    )


def smoothness_grid(variants: Variants, table: pd.DataFrame, why: dict[str, Why]) -> Grid:
    """Returns the table of smoothness.csv; certified accuracies come last, unless all of them are 0."""
    columns: list[tuple[Column, float]] = [(column, 1) for column in SMOOTHNESS]
    columns += [
        (Column(name, "Certified", f"within {name.removeprefix(CERTIFIED)}/255, %", "high"), 100)
        for name in certified(table)
        if not nothing_certified(table)
    ]
    kept = [each for each in columns if each[0].key in table and table[each[0].key].notna().any()]
    notes = Notes(why, [column.key for column, _ in kept])

    def cell(row: Row, column: Column, factor: float) -> Cell:
        text = quantity(factor * row[column.key], factor * row[f"{column.key}_std"])
        return Cell(text + notes.of(row["variant"], column.key), factor * row[column.key])

    lines = [variants.line(name, [cell(row, *each) for each in kept]) for name, row in by_variant(table).items()]
    return Grid("Smoothness", "Variant", [column for column, _ in kept], lines, notes, [], nothing_certified(table))


def gan_score_grid(variants: Variants, table: pd.DataFrame, why: dict[str, Why]) -> Grid:
    """Returns the scores of GANs besides the FIDs that are compared, which stand in the leaderboard.

    table: the rows of the task in gan.csv. why: the reasons of empty cells.
    """
    kept = [
        (Column(name, sentence(score.head), ", ".join(filter(None, (network, score.small))), best_of(name)), score)
        for name, (score, network) in known_scores().items()
        if name not in FIDS and name in table and table[name].notna().any()
    ]
    notes = Notes(why, [column.key for column, _ in kept])

    def cell(row: Row, column: Column, score: Score) -> Cell:
        value, deviation = (score.factor * row[name] for name in (column.key, f"{column.key}_std"))
        return Cell(measured(value, deviation, score.form) + notes.of(row["variant"], column.key), value)

    lines = [variants.line(name, [cell(row, *each) for each in kept]) for name, row in by_variant(table).items()]
    return Grid("Scores of samples", "Variant", [column for column, _ in kept], lines, notes)


def best_of(name: str) -> Literal["high", "low"]:
    """Returns which values of a score of GANs are good."""
    return "low" if name.endswith(("fid_infinity", "kid", BOUND)) else "high"


def certified(table: pd.DataFrame) -> list[str]:
    """Returns the columns of smoothness.csv with certified accuracies."""
    return [name for name in table.columns if name.startswith(CERTIFIED) and not name.endswith("_std")]


def nothing_certified(table: pd.DataFrame) -> list[str]:
    """Returns a sentence if the bounds certify no image of any variant at any radius."""
    names = certified(table)
    values = table[names].to_numpy(dtype=float) if names else np.empty(0)
    if np.isnan(values).all() or (values > 0).any():
        return []
    radii = " and ".join(f"{name.removeprefix(CERTIFIED)}/255" for name in names)
    return [f"The bounds certify no test image of any variant within {radii}."]


def suspicious(table: pd.DataFrame) -> list[str]:
    """Returns a sentence on the variants of robustness.csv whose attacks cannot be trusted, if there are any."""
    names = [row["variant"] for row in table.to_dict("records") if row["warnings"] > 0]
    if not names:
        return []
    return [f"FGSM leaves far more accuracy than PGD, so that gradients cannot be trusted: {', '.join(names)}."]


def by_variant(table: pd.DataFrame) -> dict[str, Row]:
    """Returns the rows of a table by variant."""
    return {row["variant"]: row for row in table.to_dict("records")}
