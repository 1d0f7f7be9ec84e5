"""The tables with one row for each run: its scores, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable

from normbench.results.tables.costs import COST, cost
from normbench.results.tables.leaderboard import corruption_accuracy, trials
from normbench.results.tables.means import collapsed
from normbench.results.tables.portable import portable
from normbench.results.tables.robustness import columns_of, score_columns
from normbench.results.tables.table import PERCENT, PLAIN, SHARE, Row, Table
from normbench.runs.record import Record

Named = tuple[str, str, Record]  # task and variant, as the suite names them, and the record
WHO = dict.fromkeys(("kind", "task", "variant"), PLAIN)


def run_table(named: Iterable[Named]) -> Table:
    """Returns a row for each run: what it is, its status, its scores, memory and parameters, and where it was trained.

    status: finished, diverged, or collapsed. A score that a run does not have is NaN.
    """
    known = list(named)
    scores = score_columns(record for *_, record in known)
    columns = WHO | dict.fromkeys(("method", "seed", "status", "tuned"), PLAIN)
    columns |= {"clean_accuracy": SHARE, "corruption_accuracy": SHARE, "fid": PERCENT} | scores
    columns |= {name: COST[name] for name in ("peak_memory_mib", "parameters")}
    columns |= dict.fromkeys(("device", "precision", "memory_format", "run"), PLAIN)
    return Table(columns, [_row(*each, list(scores)) for each in known])


def cost_table(named: Iterable[Named]) -> Table:
    """Returns a row for each run with what its time was: speed, seconds, and what shared the machine with it.

    These are the numbers that differ between two trainings of the same run.
    """
    times = {name: COST[name] for name in ("images_per_second", "iterations_per_second", "seconds", "compile_seconds")}
    columns = WHO | {"seed": PLAIN} | times | dict.fromkeys(("side_by_side", "device", "run"), PLAIN)
    rows = []
    for task, variant, record in named:
        device = record.provenance.device
        row = _who(task, variant, record) | {"seed": record.seed} | cost(record)
        rows.append(row | {"side_by_side": device.side_by_side, "device": device.name, "run": record.run})
    return Table(columns, rows)


def status(record: Record) -> str:
    """Returns how a run ended: finished, diverged or collapsed."""
    return "collapsed" if collapsed(record) else record.status.value


def _who(task: str, variant: str, record: Record) -> Row:
    return {"kind": record.kind.value, "task": task, "variant": variant}


def _row(task: str, variant: str, record: Record, scores: list[str]) -> Row:
    own, columns, metrics = record.provenance, columns_of(record), record.metrics
    spent = cost(record)
    return _who(task, variant, record) | {
        "method": portable(own.variant.method),
        "seed": record.seed,
        "status": status(record),
        "tuned": trials([record]),
        "clean_accuracy": metrics.get("clean_accuracy", math.nan) if record.finished else math.nan,
        "corruption_accuracy": corruption_accuracy(record) if metrics.get("corruption_accuracy") else math.nan,
        "fid": math.nan if metrics.get("fid") is None else metrics["fid"],
        **{name: columns.get(name, math.nan) for name in scores},
        "peak_memory_mib": spent["peak_memory_mib"],
        "parameters": spent["parameters"],
        "device": own.device.name,
        "precision": own.numerics.precision,
        "memory_format": own.numerics.memory_format,
        "run": record.run,
    }
