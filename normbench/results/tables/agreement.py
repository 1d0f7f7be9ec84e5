"""Accuracy by class, and how far two variants are wrong about the same images; both for the report."""

from __future__ import annotations

import itertools

import numpy as np

from normbench.results.tables.means import Runs, finished
from normbench.results.tables.outcomes import Known, Predictions
from normbench.results.tables.table import PLAIN, SHARE, Table
from normbench.runs.record import Record

SHARES = ("both_right", "only_first", "only_second", "both_wrong")


def class_table(runs: Runs, predictions: Known) -> Table:
    """Returns a row for each task, variant and class: its clean test images, and the accuracy over finished runs."""
    rows = []
    for (task, variant), records in runs.items():
        known = _known((task, variant), records, predictions)
        if known:
            labels = next(iter(known.values())).labels
            right = np.mean([each.clean == each.labels for each in known.values()], axis=0)
            for label in np.unique(labels).tolist():
                own = labels == label
                row = {"task": task, "variant": variant, "class": label, "examples": int(own.sum())}
                rows.append(row | {"accuracy": float(right[own].mean())})
    return Table(dict.fromkeys(("task", "variant", "class", "examples"), PLAIN) | {"accuracy": SHARE}, rows)


def agreement_table(runs: Runs, predictions: Known) -> Table:
    """Returns a row for each task and two variants: shares of the clean test images, over the seeds of both."""
    known = {cell: _known(cell, records, predictions) for cell, records in runs.items()}
    rows = []
    for (task, first), (of, second) in itertools.combinations(known, 2):
        one, other = known[task, first], known[of, second]
        seeds = sorted(one.keys() & other.keys())
        if task != of or not seeds:
            continue
        a, b = (np.stack([each[seed].clean == each[seed].labels for seed in seeds]) for each in (one, other))
        shares = [float(each.mean()) for each in (a & b, a & ~b, ~a & b, ~a & ~b)]
        rows.append({"task": task, "variant": first, "other": second} | dict(zip(SHARES, shares, strict=True)))
    return Table(dict.fromkeys(("task", "variant", "other"), PLAIN) | dict.fromkeys(SHARES, SHARE), rows)


def _known(cell: tuple[str, str], records: list[Record], predictions: Known) -> dict[int, Predictions]:
    """Returns the predictions of the finished runs that have some, by seed."""
    found = {record.seed: predictions[*cell, record.seed] for record in finished(records)}
    return {seed: each for seed, each in found.items() if isinstance(each, Predictions)}
