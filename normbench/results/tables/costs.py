"""The costs of a variant's runs: speed, memory, parameters, time, and how many of them finished."""

from __future__ import annotations

import math

import pandas as pd

from normbench.results.tables.means import finished, mean
from normbench.results.tables.table import PLAIN, Row
from normbench.runs.record import Cost, Record

MIB = 2**20  # bytes

# The columns of one run (COST), and of a variant (COSTS).
COST = {"images_per_second": ".1f", "peak_memory_mib": ".2f", "parameters": PLAIN, "seconds": ".2f"}
COST |= {"compile_seconds": ".2f"}
COSTS = COST | {"finished": PLAIN, "diverged": PLAIN}


def costs(records: list[Record]) -> Row:
    """Returns the columns `COSTS` of a variant, and `side_by_side`.

    Memory and parameters use all runs; speed and time use only the runs that `costed` returns. side_by_side: the
    largest number of runs, itself included, that shared the machine with one of these.
    """
    done, timed = len(finished(records)), costed(records)
    each = [cost(record.cost) for record in timed]
    return {
        "images_per_second": float(pd.Series([row["images_per_second"] for row in each], dtype=float).median()),
        "peak_memory_mib": max((record.cost.peak_memory_bytes for record in records), default=math.nan) / MIB,
        "parameters": next((record.cost.parameters for record in records), math.nan),
        "seconds": mean(row["seconds"] for row in each),
        "compile_seconds": mean(row["compile_seconds"] for row in each),
        "finished": done,
        "diverged": len(records) - done,
        "side_by_side": max((record.provenance.device.side_by_side for record in timed), default=1),
    }


def cost(of: Cost) -> Row:
    """Returns the columns `COST` of one run; `seconds` is the sum of all phases."""
    return {
        "images_per_second": float("nan") if of.images_per_second is None else of.images_per_second,
        "peak_memory_mib": of.peak_memory_bytes / MIB,
        "parameters": of.parameters,
        "seconds": sum(of.seconds.values()),
        "compile_seconds": of.seconds.get("compile", 0.0),
    }


def costed(records: list[Record]) -> list[Record]:
    """Returns the finished runs that had the machine to themselves; if there are none, all finished runs.

    These are the runs whose speed and time the tables show.
    """
    done = finished(records)
    return [record for record in done if record.provenance.device.side_by_side == 1] or done
