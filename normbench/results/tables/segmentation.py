"""The tables of segmentation: scores of each task and variant, by class, and by corruption."""

from __future__ import annotations

import functools
import math

from normbench.results.tables.comparisons import against
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import COSTS, costs
from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.reading import method
from normbench.results.tables.reasons import MISSING, explained, unfinished, unspread
from normbench.results.tables.robustness import columns_of
from normbench.results.tables.table import PLAIN, SHARE, Row, Table, ranked, with_std
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.segmentation.protocol import names_of
from normbench.segmentation.task import SegmentationTask
from normbench.system.narrowing import narrowed

SCORES = ("mean_iou", "pixel_accuracy", "corruption_mean_iou", "corruption_pixel_accuracy")
COLUMNS = dict.fromkeys(("task", "variant", "method", "protocol"), PLAIN)
for _name in SCORES:
    COLUMNS |= with_std((_name,), SHARE) | {f"{_name}_verdict": PLAIN}
COLUMNS |= COSTS | {MISSING: PLAIN}
# The metric of a record behind each measure of the table by corruption.
MEASURES = {"mean_iou": "corruption_mean_iou", "pixel_accuracy": "corruption_pixel_accuracy"}


def segmentation_table(runs: Runs, baseline: str | None, compared: Table) -> Table:
    """Returns a row for each task and variant; within a task the highest mean IoU comes first.

    baseline: the variant on which the verdicts are, if it is one of them. compared: see `comparisons`.
    """
    verdicts = {name: against(compared, Kind.SEGMENTATION, name, baseline) for name in SCORES}
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        row: Row = {"task": task, "variant": variant, "method": method(records, variant)}
        row["protocol"] = next((task_of(record).recipe.protocol for record in records), "")
        for name in SCORES:
            values = [columns_of(record).get(name, math.nan) for record in done]
            row |= {name: mean(values), f"{name}_std": std(values)}
            row[f"{name}_verdict"] = verdicts[name].get((task, variant), "")
        numbers = [each for name in SCORES for each in (name, f"{name}_std")]
        rows.append(explained(row | costs(records), numbers, functools.partial(reason, records)))
    return Table(COLUMNS, ranked(rows, "mean_iou", falling=True))


def reason(records: list[Record], column: str) -> str:
    """Returns why a column of a variant is empty."""
    if column.endswith("_std") and finished(records):
        return unspread(records)
    return unfinished(records) or "no finished run was scored with it"


def iou_table(runs: Runs) -> Table:
    """Returns a row for each task, variant and class: the IoU on clean images, and the pixels that have the class.

    A class that no pixel has or was given has no IoU.
    """
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        if not done:
            continue
        names = names_of(task_of(done[0]).recipe, done[0].provenance.dataset)
        for label, name in enumerate(names):
            values = [math.nan if (each := record.metrics["iou"][label]) is None else each for record in done]
            row: Row = {"task": task, "variant": variant, "class": name, "iou": mean(values), "iou_std": std(values)}
            rows.append(row | {"pixels": sum(done[0].metrics["confusion"][label])})
    columns = dict.fromkeys(("task", "variant", "class"), PLAIN) | with_std(("iou",), SHARE)
    return Table(columns | {"pixels": PLAIN}, rows)


def corrupted_table(runs: Runs, chosen: Corruptions) -> Table:
    """Returns a row for each task, variant, corruption and measure, averaged over finished runs.

    There is a column for each severity and one for the mean over severities.
    """
    levels = [f"severity_{severity}" for severity in chosen.severities]
    rows = []
    for (task, variant), records in runs.items():
        for measure, metric in MEASURES.items():
            found = [record.metrics[metric] for record in finished(records)]
            for name in chosen.names:
                means = [mean(values[name][level] for values in found) for level in range(len(levels))]
                row: Row = {"task": task, "variant": variant, "corruption": name, "measure": measure}
                row |= {"mean": mean(means)} | dict(zip(levels, means, strict=True))
                rows.append(explained(row, [*levels, "mean"], functools.partial(reason, records)))
    columns = dict.fromkeys(("task", "variant", "corruption", "measure"), PLAIN)
    return Table(columns | dict.fromkeys((*levels, "mean"), SHARE) | {MISSING: PLAIN}, rows)


def task_of(record: Record) -> SegmentationTask:
    """Returns the task of a run of segmentation."""
    return narrowed(record.provenance.task, SegmentationTask, f"run {record.run}: task")
