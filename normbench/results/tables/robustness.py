"""The table of the scores that `evaluation` asks for: calibration, attacks, statistics of test batches, and new scores.

A score stores its numbers in `columns` of the record's metrics, and each of them becomes a column of the table.
"""

from __future__ import annotations

from collections.abc import Iterable

from normbench.results.tables.corruption_error import batch_mce, relative_mce
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.means import Runs, finished, mean
from normbench.results.tables.table import COUNT, PERCENT, PLAIN, SHARE, Row, Table
from normbench.runs.record import Record

# The columns of the built-in scores, in the order of the table. Records do not keep the order of columns.
BUILT_IN = (
    "nll",
    "brier",
    "ece",
    "corrupted_nll",
    "corrupted_brier",
    "corrupted_ece",
    "batch_clean_accuracy",
    "batch_corruption_accuracy",
    "attack_examples",
    "attack_clean",
    "attack_fgsm",
    "attack_pgd",
    "attack_pgd_long",
    "auto_attack_examples",
    "auto_attack",
)


def robustness_table(runs: Runs, baseline: str | None, corruptions: Corruptions) -> Table:
    """Returns a row for each task and variant: means over the finished runs that have the number.

    There is a column for every number that some run has. relative_mce, batch_mce: see
    `normbench.results.tables.corruption_error`. warnings: the number of runs whose attacks cannot be trusted.
    """
    done = {cell: finished(records) for cell, records in runs.items()}
    measured = score_columns(record for records in done.values() for record in records)
    rows = []
    for (task, variant), records in done.items():
        reference = done[task, baseline] if baseline else []
        row: Row = {"task": task, "variant": variant}
        row["relative_mce"] = relative_mce(records, reference, corruptions.main)
        for name in measured:
            row[name] = mean(columns[name] for columns in map(columns_of, records) if name in columns)
        row["batch_mce"] = batch_mce(records, reference, corruptions.main)
        row["warnings"] = sum("warning" in record.metrics.get("attacks", {}) for record in records)
        rows.append(row)
    columns = {"task": PLAIN, "variant": PLAIN, "relative_mce": PERCENT, **measured}
    return Table(columns | {"batch_mce": PERCENT, "warnings": PLAIN}, rows)


def score_columns(records: Iterable[Record]) -> dict[str, str]:
    """Returns the columns that any of the records has, with their formats.

    Integers are counts, other numbers are fractions. The built-in columns come first, then the others in order of first
    appearance.
    """
    counts: dict[str, bool] = {}
    for record in records:
        for name, value in columns_of(record).items():
            counts[name] = counts.get(name, True) and isinstance(value, int)
    order = [name for name in BUILT_IN if name in counts]
    order += [name for name in counts if name not in BUILT_IN]
    return {name: COUNT if counts[name] else SHARE for name in order}


def columns_of(record: Record) -> dict[str, float]:
    """Returns the numbers of all scores of a run; empty if it diverged or was not scored."""
    return record.metrics.get("columns", {})
