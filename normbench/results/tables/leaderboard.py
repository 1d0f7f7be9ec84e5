"""The leaderboard: accuracy on clean and corrupted images, and costs, of each task and variant."""

from __future__ import annotations

import functools

import numpy as np

from normbench.results.tables.comparisons import against
from normbench.results.tables.corruption_error import mce, undefined
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import COSTS, costs
from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.reading import method
from normbench.results.tables.reasons import MISSING, explained, unfinished, unspread
from normbench.results.tables.table import PERCENT, PLAIN, SHARE, Table, ranked, with_std
from normbench.runs.record import Record
from normbench.runs.run import Kind

TUNED = "tuned"
NUMBERS = ["clean_accuracy", "clean_accuracy_std", "corruption_accuracy", "corruption_accuracy_std", "mce"]
LEADERBOARD = (
    dict.fromkeys(("task", "variant", "method"), PLAIN)
    | {TUNED: PLAIN}
    | with_std(("clean_accuracy",), SHARE)
    | {"clean_verdict": PLAIN}
    | with_std(("corruption_accuracy",), SHARE)
    | {"corruption_verdict": PLAIN, "mce": PERCENT, "mce_corruptions": PLAIN}
    | COSTS
    | {MISSING: PLAIN}
)


def leaderboard(runs: Runs, baseline: str | None, corruptions: Corruptions, compared: Table) -> Table:
    """Returns a row for each task and variant; within a task the highest clean accuracy comes first.

    The column `tuned` has the number of trials by which the values of a row were chosen, or 0. baseline: the variant to
    which the mCE is relative, and on which the verdicts are. compared: see `comparisons`.
    """
    verdicts = {
        name: against(compared, Kind.CLASSIFICATION, f"{name}_accuracy", baseline) for name in ("clean", "corruption")
    }
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
            "method": method(records, variant),
            TUNED: trials(records),
            "clean_accuracy": mean(clean),
            "clean_accuracy_std": std(clean),
            "corruption_accuracy": mean(corrupted),
            "corruption_accuracy_std": std(corrupted),
            "clean_verdict": verdicts["clean"].get((task, variant), ""),
            "corruption_verdict": verdicts["corruption"].get((task, variant), ""),
            "mce": mce(done, reference, main),
            "mce_corruptions": len(main),
        }
        no_mce = undefined(reference, main, baseline)
        rows.append(explained(row | costs(records), NUMBERS, functools.partial(reason, records, no_mce)))
    return Table(LEADERBOARD, ranked(rows, "clean_accuracy", falling=True))


def reason(records: list[Record], no_mce: str, column: str) -> str:
    """Returns why a column of a variant is empty. no_mce: why there is no mCE, if there are finished runs."""
    if column.endswith("_std") and finished(records):
        return unspread(records)
    return unfinished(records) or no_mce


def trials(records: list[Record]) -> int:
    """Returns the number of trials by which the values of a variant were tuned for its task; 0 if they were not."""
    tuned = records[0].provenance.variant.applied if records else None
    return 0 if tuned is None else tuned.trials


def corruption_accuracy(record: Record) -> float:
    """Returns the mean accuracy over corruptions and severities of a scored run."""
    return float(np.mean(list(record.metrics["corruption_accuracy"].values())))
