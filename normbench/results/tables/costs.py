"""The costs of a variant's runs: memory and parameters, how its runs ended, and their speed.

Memory and parameters are the same for every training of a run, and stand in the leaderboard. Times are not: they are in
results/costs.csv, and in the report beside the conditions under which they were taken.
"""

from __future__ import annotations

import math

from normbench.gan.task import GanTask
from normbench.results.tables.means import Runs, collapsed, finished, mean, median, std
from normbench.results.tables.reasons import MISSING, UNTIMED
from normbench.results.tables.table import PLAIN, REAL, Row, Table
from normbench.runs.record import Device, Record
from normbench.runs.run import Kind

MIB = 2**20  # bytes

# The columns of one run (COST), of a variant (COSTS), and of the speed of a variant (SPEEDS).
COST = {"images_per_second": ".1f", "iterations_per_second": ".2f", "peak_memory_mib": ".2f", "parameters": PLAIN}
COST |= {"seconds": ".2f", "compile_seconds": ".2f"}
ENDS = ("runs", "finished", "failed", "diverged", "collapsed")
COSTS = {name: COST[name] for name in ("peak_memory_mib", "parameters")} | dict.fromkeys(ENDS, PLAIN)
SPEEDS = {"images_per_second": ".1f", "images_per_second_std": ".1f"}
SPEEDS |= {"iterations_per_second": ".2f", "iterations_per_second_std": ".2f", "seconds": ".2f", "seconds_std": ".2f"}
SPEEDS |= {"compile_seconds": ".2f", "ratio": REAL, "side_by_side": PLAIN, MISSING: PLAIN}


def costs(records: list[Record]) -> Row:
    """Returns the columns `COSTS` of a variant, over all its runs. failed: those that diverged or collapsed."""
    diverged, failed = sum(not record.finished for record in records), len(records) - len(finished(records))
    return {
        "peak_memory_mib": max((record.cost.peak_memory_bytes for record in records), default=math.nan) / MIB,
        "parameters": next((record.cost.parameters for record in records), math.nan),
        "runs": len(records),
        "finished": len(records) - failed,
        "failed": failed,
        "diverged": diverged,
        "collapsed": sum(collapsed(record) for record in records),
    }


def cost(record: Record) -> Row:
    """Returns the columns `COST` of one run; `seconds` is the sum of all phases.

    iterations_per_second: of a GAN, each with the steps of the discriminator that belong to it; NaN for a classifier.
    """
    of, task = record.cost, record.provenance.task
    speed = math.nan if of.images_per_second is None else of.images_per_second
    iterations = math.nan
    if isinstance(task, GanTask):
        iterations = speed / (task.recipe.batch_size * task.recipe.discriminator_steps)
    return {
        "images_per_second": speed,
        "iterations_per_second": iterations,
        "peak_memory_mib": of.peak_memory_bytes / MIB,
        "parameters": of.parameters,
        "seconds": sum(of.seconds.values()),
        "compile_seconds": of.seconds.get("compile", 0.0),
    }


def speed_table(runs: dict[Kind, Runs], baseline: str | None) -> Table:
    """Returns a row for each task and variant, over the finished runs that `costed` returns.

    images_per_second, iterations_per_second: the medians over these runs. ratio: that of the variant to the baseline,
    if all runs of both had the machine to themselves and were on like machines; otherwise `missing` says why there is
    none. side_by_side: the largest number of runs, itself included, that shared the machine with one of these.
    """
    rows = [
        _speed(records, of_kind.get((task, baseline or ""), []))
        | {"kind": kind.value, "task": task, "variant": variant}
        for kind, of_kind in runs.items()
        for (task, variant), records in of_kind.items()
    ]
    return Table(dict.fromkeys(("kind", "task", "variant"), PLAIN) | SPEEDS, rows)


def _speed(records: list[Record], of_baseline: list[Record]) -> Row:
    timed, reference = costed(records), costed(of_baseline)
    each = [cost(record) for record in timed]
    speed = median(row["images_per_second"] for row in each)
    why = incomparable(timed, reference)
    of_reference = median(cost(record)["images_per_second"] for record in reference)
    return {
        "images_per_second": speed,
        "images_per_second_std": std(row["images_per_second"] for row in each),
        "iterations_per_second": median(row["iterations_per_second"] for row in each),
        "iterations_per_second_std": std(row["iterations_per_second"] for row in each),
        "seconds": mean(row["seconds"] for row in each),
        "seconds_std": std(row["seconds"] for row in each),
        "compile_seconds": mean(row["compile_seconds"] for row in each),
        "ratio": math.nan if why else speed / of_reference,
        "side_by_side": max((record.provenance.device.side_by_side for record in timed), default=1),
        MISSING: why,
    }


def incomparable(own: list[Record], reference: list[Record]) -> str:
    """Returns why the speeds of two variants cannot be compared; an empty text if they can."""
    for records in (own, reference):
        if all(record.cost.images_per_second is None for record in records):
            return UNTIMED if records is own else "no run of the baseline was timed"
    beside = max(record.provenance.device.side_by_side for record in (*own, *reference))
    if beside > 1:
        return f"up to {beside} runs shared the machine while they were timed"
    machines = {_machine(record.provenance.device) for record in (*own, *reference)}
    return "timed on different machines" if len(machines) > 1 else ""


def _machine(device: Device) -> tuple[str, str, str, int | None]:
    return device.type, device.name, device.cpu, device.cores


def costed(records: list[Record]) -> list[Record]:
    """Returns the finished runs that had the machine to themselves; if there are none, all finished runs.

    These are the runs whose speed and time the report shows.
    """
    done = finished(records)
    return [record for record in done if record.provenance.device.side_by_side == 1] or done
