"""The corruptions of the suite, and the table of accuracy by corruption and severity."""

from __future__ import annotations

import functools

from normbench.corruptions import MAIN
from normbench.results.tables.means import Runs, finished, mean
from normbench.results.tables.reasons import MISSING, explained, unfinished
from normbench.results.tables.table import PLAIN, SHARE, Table
from normbench.runs.record import Record
from normbench.suite import resolved
from normbench.system.schema import Strict


class Corruptions(Strict):
    """The corruptions and severities that params.yaml asks for."""

    names: list[str]
    severities: list[int]

    @classmethod
    def resolved(cls) -> Corruptions:
        """Returns the corruptions of the suite as it was last resolved, each name once."""
        found = resolved.corruptions()
        return cls(names=list(dict.fromkeys(found["names"])), severities=found["severities"])

    @property
    def main(self) -> list[str]:
        """The names that are among the 15 main corruptions, over which the mCE is defined."""
        return [name for name in self.names if name in MAIN]


def _reason(records: list[Record], column: str) -> str:
    return unfinished(records)


def corruption_table(runs: Runs, chosen: Corruptions) -> Table:
    """Returns a row for each task, variant and corruption, with accuracies averaged over finished runs.

    There is a column for each severity and one for the mean over severities.
    """
    levels = [f"severity_{severity}" for severity in chosen.severities]
    rows = []
    for (task, variant), records in runs.items():
        accuracies = [record.metrics["corruption_accuracy"] for record in finished(records)]
        for name in chosen.names:
            means = [mean(accuracy[name][level] for accuracy in accuracies) for level in range(len(levels))]
            row = {"task": task, "variant": variant, "corruption": name, "mean": mean(means)}
            row |= dict(zip(levels, means, strict=True))
            rows.append(explained(row, [*levels, "mean"], functools.partial(_reason, records)))
    columns = dict.fromkeys(("task", "variant", "corruption"), PLAIN) | dict.fromkeys((*levels, "mean"), SHARE)
    return Table(columns | {MISSING: PLAIN}, rows)
