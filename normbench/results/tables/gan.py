"""The table of GANs: FID and costs of each task and variant."""

from __future__ import annotations

import functools

from normbench.results.tables.comparisons import against
from normbench.results.tables.costs import COSTS, costs
from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.reading import method
from normbench.results.tables.reasons import MISSING, explained, unfinished, unspread
from normbench.results.tables.table import PERCENT, PLAIN, Table, ranked, with_std
from normbench.runs.record import Record
from normbench.runs.run import Kind

GAN = (
    dict.fromkeys(("task", "variant", "method"), PLAIN)
    | with_std(("fid",), PERCENT)
    | {"fid_verdict": PLAIN}
    | COSTS
    | {MISSING: PLAIN}
)


def gan_table(runs: Runs, baseline: str | None, compared: Table) -> Table:
    """Returns a row for each GAN task and variant; within a task the lowest FID comes first.

    baseline: the variant on which the verdicts are, if it is one of them. compared: see `comparisons`.
    """
    verdicts = against(compared, Kind.GAN, "fid", baseline)
    rows = []
    for (task, variant), records in runs.items():
        fid = [record.metrics["fid"] for record in finished(records)]
        row = {
            "task": task,
            "variant": variant,
            "method": method(records, variant),
            "fid": mean(fid),
            "fid_std": std(fid),
            "fid_verdict": verdicts.get((task, variant), ""),
        }
        rows.append(explained(row | costs(records), ["fid", "fid_std"], functools.partial(reason, records)))
    return Table(GAN, ranked(rows, "fid", falling=False))


def reason(records: list[Record], column: str) -> str:
    """Returns why a column of a variant is empty."""
    return unfinished(records) or unspread(records)
