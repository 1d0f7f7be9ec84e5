"""The runs of the suite: the table of all of them, and the panel of each with its parameters and provenance."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pandas as pd
from markupsafe import Markup

from normbench.results.page.grid import Cell, Column, Grid, Line
from normbench.results.words import number

Run = dict[str, Any]  # an entry of runs.json

MEASURED = (
    (Column("clean_accuracy", "Clean accuracy", "%", "high"), 100),
    (Column("corruption_accuracy", "Corruption accuracy", "%", "high"), 100),
    (Column("mean_iou", "Mean IoU", "%", "high"), 100),
    (Column("corruption_mean_iou", "Mean IoU", "corrupted, %", "high"), 100),
    (Column("fid", "FID", "", "low"), 1),
)
WORDS = (Column("device", "Device", text=True), Column("precision", "Precision", text=True))


def anchors(table: pd.DataFrame) -> list[str]:
    """Returns the id on the page of each run of runs.csv; the same run may belong to several variants."""
    counts: Counter[str] = Counter()
    found = []
    for run in table["run"].astype(str) if len(table) else []:
        counts[run] += 1
        found.append(f"run-{run}" + (f"-{counts[run]}" if counts[run] > 1 else ""))
    return found


def run_grid(table: pd.DataFrame) -> Grid:
    """Returns the table of all runs. table: runs.csv."""
    kept = [(column, factor) for column, factor in MEASURED if column.key in table and table[column.key].notna().any()]
    words = [column for column in WORDS if column.key in table]
    columns = [Column("task", "Task", text=True), Column("seed", "Seed"), Column("status", "Status", text=True)]
    columns += [*(column for column, _ in kept), *words, Column("run", "Run", text=True)]
    lines = []
    for row, anchor in zip(table.to_dict("records"), anchors(table), strict=True):
        values = [factor * row[column.key] for column, factor in kept]
        cells = [
            Cell(row["task"], row["task"]),
            Cell(str(row["seed"]), row["seed"]),
            Cell(row["status"], row["status"]),
        ]
        cells += [Cell(number(value, ".2f"), value) for value in values]
        cells += [Cell(text, text) for column in words for text in [as_text(row[column.key])]]
        link = Markup('<a href="#{}"><code>{}</code></a>').format(anchor, row["run"])
        lines.append(Line(row["variant"], [*cells, Cell(link, str(row["run"]))], anchor=anchor))
    return Grid("Runs", "Variant", columns, lines)


def as_text(value: Any) -> str:
    """Returns the text of a cell that may be empty."""
    return "" if isinstance(value, float) and math.isnan(value) else str(value)


def first_anchors(table: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Returns the id of the first run of each kind, task and variant."""
    found: dict[tuple[str, str, str], str] = {}
    for row, anchor in zip(table.to_dict("records"), anchors(table), strict=True):
        found.setdefault((row["kind"], row["task"], row["variant"]), anchor)
    return found


def panels(runs: list[Run], table: pd.DataFrame) -> dict[str, Any]:
    """Returns the data of all panels: `runs`, for each anchor its values by key, and `pool`, the values.

    What runs have in common, such as a recipe, is in the pool once. runs: the content of runs.json.
    """
    ids = dict(zip(zip(*(table[key].astype(str) for key in KEYS), strict=True), anchors(table), strict=True))
    pool: dict[str, int] = {}
    found = {}
    for run in runs:
        anchor = ids.get(tuple(str(run[key]) for key in KEYS))
        if anchor is not None:
            found[anchor] = {
                key: pool.setdefault(json.dumps(value, sort_keys=True), len(pool)) for key, value in run.items()
            }
    return {"runs": found, "pool": [json.loads(text) for text in pool]}


KEYS = ("kind", "task", "variant", "seed")
