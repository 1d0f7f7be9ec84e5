"""The table of GANs: the scores and costs of each task and variant.

A mean over the seeds has its standard deviation beside it, `_std`, which is that of training and sampling together,
and `_sampling` what other images of the same generators would give: the root of the mean square over the runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from normbench.gan.evaluation import BOUND, column
from normbench.results.tables.comparisons import against
from normbench.results.tables.costs import COSTS, costs
from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.reading import method
from normbench.results.tables.reasons import MISSING, explained, unfinished, unspread
from normbench.results.tables.robustness import columns_of
from normbench.results.tables.table import PERCENT, PLAIN, REAL, Row, Table, ranked, with_std
from normbench.runs.record import Record
from normbench.runs.run import Kind

NAMES = ("fid_infinity", "kid", "score", "precision", "recall", "density", "coverage")  # besides the FID, in order
FIDS = {"fid": "classifier", "inception_fid": "inception"}
SAMPLING = "_sampling"
ALWAYS = dict.fromkeys(("task", "variant", "method"), PLAIN) | with_std(("fid",), PERCENT) | {"fid_verdict": PLAIN}
GAN = ALWAYS | COSTS | {MISSING: PLAIN}  # the columns that every table has


def gan_table(runs: Runs, baseline: str | None, compared: Table) -> Table:
    """Returns a row for each GAN task and variant; within a task the lowest FID comes first.

    There are columns for the FID, and for every other score that some run has or says why it has not. baseline: the
    variant on which the verdicts are, if it is one of them. compared: see `comparisons`.
    """
    measured = scores(record for records in runs.values() for record in records)
    fids = ["fid", *(name for name in measured if name in FIDS and name != "fid")]
    verdicts = {name: against(compared, Kind.GAN, name, baseline) for name in fids}
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        row: Row = {"task": task, "variant": variant, "method": method(records, variant)}
        for name in dict.fromkeys(["fid", *measured]):
            values = [value_of(record, name) for record in done]
            row |= {name: mean(values), f"{name}_std": std(values), f"{name}{SAMPLING}": sampling(done, name)}
        row |= {f"{name}_verdict": verdicts[name].get((task, variant), "") for name in fids}
        numbers = [name for each in dict.fromkeys(["fid", *measured]) for name in (each, f"{each}_std")]
        numbers += [f"{name}{SAMPLING}" for name in measured if has_sampling(runs, name)]
        rows.append(explained(row | costs(records), numbers, functools.partial(reason, records)))
    columns = dict(ALWAYS)
    for name in measured:
        columns |= {} if name == "fid" else with_std((name,), REAL)
        columns |= {f"{name}{SAMPLING}": REAL} if has_sampling(runs, name) else {}
        columns |= {f"{name}_verdict": PLAIN} if name in fids else {}
    first = next((name for name in fids if any(not math.isnan(row[name]) for row in rows)), "fid")
    return Table(columns | COSTS | {MISSING: PLAIN}, ranked(rows, first, falling=False))


def scores(records: Iterable[Record]) -> list[str]:
    """Returns the scores that any of the records has or lacks for a reason, in the order of the table."""
    found = {name for record in records for name in (*columns_of(record), *record.metrics.get(MISSING, {}))}
    found |= {name.removesuffix(SAMPLING) for name in found}
    order = [column(extractor, name) for extractor in ("classifier", "inception") for name in ("fid", *NAMES)]
    return [name for name in [*order, BOUND] if name in found]


def has_sampling(runs: Runs, name: str) -> bool:
    """Whether any run has the spread of a score that comes from sampling images."""
    return any(f"{name}{SAMPLING}" in columns_of(record) for records in runs.values() for record in records)


def value_of(record: Record, name: str) -> float:
    """Returns a score of a run; NaN without it. The FID of the classifier's features is a metric of its own."""
    value = record.metrics.get("fid") if name == "fid" else columns_of(record).get(name)
    return math.nan if value is None else float(value)


def sampling(records: list[Record], name: str) -> float:
    """Returns the root of the mean square of the deviations that sampling gives to a score; NaN without them."""
    return math.sqrt(mean(value_of(record, f"{name}{SAMPLING}") ** 2 for record in records))


def reason(records: list[Record], name: str) -> str:
    """Returns why a column of a variant is empty."""
    base = name.removesuffix("_std")
    if why := unfinished(records):
        return why
    values = [value_of(record, base) for record in finished(records)]
    known = sum(not math.isnan(value) for value in values)
    said = next((record.metrics[MISSING][base] for record in records if base in record.metrics.get(MISSING, {})), "")
    if known == 0 or name == base:
        return said or "no finished run was scored with it"
    return unspread(records, known)
