"""The table of the score `filters`: the deconvolution filters of a first layer, and the sparsity before and after them.

Unlike the tables of other scores it has a row for each run, because the runs of a variant have the same filters.
"""

from __future__ import annotations

import math
from typing import Any

from normbench.results.tables.means import Runs, finished
from normbench.results.tables.reasons import MISSING, explained
from normbench.results.tables.table import PLAIN, REAL, SHARE, Row, Table
from normbench.runs.record import Record

VERSION = 1  # of the entries of records that are read; `normbench.evaluation.filters`, which writes them, needs torch
KEYS = ("task", "variant", "seed", "iterations", "own_iterations")
NUMBERS = {
    "centre": REAL,
    "ring": REAL,
    "others": REAL,
    "sum": REAL,
    "kurtosis_before": REAL,
    "kurtosis_after": REAL,
    "near_zero_before": SHARE,
    "near_zero_after": SHARE,
}


def filter_table(runs: Runs) -> Table:
    """Returns a row for each finished run whose first layer whitens patches, and each number of iterations."""
    rows: list[Row] = []
    for (task, variant), records in runs.items():
        for record in finished(records):
            found = measured(record)
            for after in found["after"] if found else []:
                row: Row = {"task": task, "variant": variant, "seed": record.seed, "iterations": after["iterations"]}
                row["own_iterations"] = found["own_iterations"]
                row |= {name: after[name] for name in ("centre", "ring", "others", "sum")}
                for when, sparsity in (("before", found["pixels"]), ("after", after["responses"])):
                    row |= {f"{name}_{when}": sparsity[name] for name in ("kurtosis", "near_zero")}
                row = {name: math.nan if value is None else value for name, value in row.items()}
                rows.append(explained(row, NUMBERS, why_empty))
    return Table(dict.fromkeys(KEYS, PLAIN) | NUMBERS | {MISSING: PLAIN}, rows)


def measured(record: Record) -> dict[str, Any]:
    """Returns what the score has stored of a run; empty if that is nothing, or of another version."""
    found = record.metrics.get("filters") or {}
    return found if found.get("version") == VERSION else {}


def why_empty(column: str) -> str:
    """Returns why a filter has no number."""
    return "images of one channel" if column == "others" else "next to no variance"
