"""Training loss and accuracy by epoch."""

from __future__ import annotations

from normbench.results.tables.means import Runs
from normbench.results.tables.table import PLAIN, REAL, SHARE, Table

CURVES = dict.fromkeys(("task", "variant", "seed", "epoch"), PLAIN) | {"loss": REAL, "accuracy": SHARE, "lr": REAL}


def curve_table(runs: Runs) -> Table:
    """Returns a row for each run and epoch. A run that diverged has rows for its completed epochs."""
    rows = [
        {"task": task, "variant": variant, "seed": record.seed, **epoch}
        for (task, variant), records in runs.items()
        for record in records
        for epoch in record.metrics["history"]
    ]
    return Table(CURVES, rows)
