"""The training of GANs by iteration, and why runs of GANs failed."""

from __future__ import annotations

import math
import re

from normbench.gan.evaluation import column
from normbench.gan.recipe import COLLAPSED
from normbench.results.tables.means import Runs, collapsed
from normbench.results.tables.table import PLAIN, REAL, Table
from normbench.runs.record import Record

CURVES = dict.fromkeys(("task", "variant", "seed", "iteration"), PLAIN)
KIDS = tuple(column(extractor, "kid") for extractor in ("classifier", "inception"))
CURVES |= dict.fromkeys(("discriminator_loss", "generator_loss", "diversity", "largest_norm"), REAL)
NORMS = dict.fromkeys(("task", "variant", "seed", "iteration", "layer"), PLAIN) | {"norm": REAL}


def gan_curve_table(runs: Runs) -> Table:
    """Returns a row for each run and entry of its history; a run that diverged has the entries before that.

    largest_norm: the largest spectral norm of a weight of the discriminator. What a record does not have is NaN. The
    KIDs that no record has have no column.
    """
    kids = [name for name in KIDS if any(name in over_time(each) for records in runs.values() for each in records)]
    rows = [
        {
            "task": task,
            "variant": variant,
            "seed": record.seed,
            "iteration": entry["iteration"],
            "discriminator_loss": entry["discriminator_loss"],
            "generator_loss": entry["generator_loss"],
            "diversity": math.nan if entry.get("diversity") is None else entry["diversity"],
            "largest_norm": max((entry.get("spectral_norms") or {}).values(), default=math.nan),
        }
        | {name: kid(record, name, place) for name in kids}
        for (task, variant), records in runs.items()
        for record in records
        for place, entry in enumerate(record.metrics["history"])
    ]
    return Table(CURVES | dict.fromkeys(kids, REAL), rows)


def kid(record: Record, name: str, place: int) -> float:
    """Returns the KID of the samples at a place of the history; NaN without one."""
    value = over_time(record)[name][place] if name in over_time(record) else None
    return math.nan if value is None else value


def over_time(record: Record) -> dict[str, list[float | None]]:
    """Returns the KIDs of the samples of a record's history by column; none if it has not been scored with them."""
    return record.metrics.get("over_time") or {}


def gan_norm_table(runs: Runs) -> Table:
    """Returns a row for each run, entry of its history and layer: the spectral norm of the discriminator's weight.

    A record has its layers in the order of the alphabet. Here they are in that of `in_order`.
    """
    rows = [
        {
            "task": task,
            "variant": variant,
            "seed": record.seed,
            "iteration": entry["iteration"],
            "layer": layer,
            "norm": norm,
        }
        for (task, variant), records in runs.items()
        for record in records
        for entry in record.metrics["history"]
        for layer, norm in sorted((entry.get("spectral_norms") or {}).items(), key=lambda each: in_order(each[0]))
    ]
    return Table(NORMS, rows)


def in_order(layer: str) -> list[tuple[int, str]]:
    """Returns the key by which layers are sorted: numbers within names count as such, so that 9 comes before 12."""
    return [(int(part) if part.isascii() and part.isdigit() else -1, part) for part in re.split(r"(\d+)", layer)]


def failures(records: list[Record]) -> dict[int, str]:
    """Returns how the runs of a variant failed, by seed, with the reason. Iterations count from 1."""
    return {record.seed: why for record in records for why in [failure(record)] if why}


def failure(record: Record) -> str:
    """Returns why a run of a GAN failed; an empty string if it did not."""
    if record.diverged is not None:
        return f"diverged: at iteration {record.diverged['step'] + 1} a loss or a weight was not finite"
    if not collapsed(record):
        return ""
    last = record.metrics["history"][-1].get("diversity")
    end = "" if last is None else f", and at the end {last:.3g}"
    return (
        f"collapsed: from iteration {record.metrics['collapsed']['step']} on the diversity of its samples was below "
        f"{COLLAPSED:g}{end}"
    )
