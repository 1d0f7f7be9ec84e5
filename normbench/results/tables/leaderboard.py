"""The leaderboard: accuracy on clean and corrupted images, and costs, of each task and variant."""

from __future__ import annotations

import numpy as np

from normbench.results.tables.corruption_error import mce
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import COSTS, costs
from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.portable import portable
from normbench.results.tables.table import PERCENT, PLAIN, SHARE, Table, ranked, with_std
from normbench.runs.record import Record

LEADERBOARD = (
    dict.fromkeys(("task", "variant", "method"), PLAIN)
    | with_std(("clean_accuracy", "corruption_accuracy"), SHARE)
    | {"mce": PERCENT, "mce_corruptions": PLAIN}
    | COSTS
)


def leaderboard(runs: Runs, baseline: str | None, corruptions: Corruptions) -> Table:
    """Returns a row for each task and variant; within a task the highest clean accuracy comes first.

    baseline: the variant to which the mCE is relative.
    """
    main = corruptions.main
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        reference = finished(runs[task, baseline]) if baseline else []
        clean = [record.metrics["clean_accuracy"] for record in done]
        corrupted = [corruption_accuracy(record) for record in done]
        row = {
            "task": task,
            "variant": variant,
            "method": portable(records[0].provenance.variant.method),
            "clean_accuracy": mean(clean),
            "clean_accuracy_std": std(clean),
            "corruption_accuracy": mean(corrupted),
            "corruption_accuracy_std": std(corrupted),
            "mce": mce(done, reference, main),
            "mce_corruptions": len(main),
        }
        rows.append(row | costs(records))
    return Table(LEADERBOARD, ranked(rows, "clean_accuracy", falling=True))


def corruption_accuracy(record: Record) -> float:
    """Returns the mean accuracy over corruptions and severities of a scored run."""
    return float(np.mean(list(record.metrics["corruption_accuracy"].values())))
