"""The table of paired comparisons: every two variants of a task, by every measure, with a verdict."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from normbench.comparison import permutation
from normbench.comparison.paired import Difference, paired
from normbench.comparison.verdicts import FEWEST, Verdict, judged
from normbench.results.tables import outcomes
from normbench.results.tables.means import Runs, finished
from normbench.results.tables.outcomes import Known, Predictions
from normbench.results.tables.reasons import MISSING
from normbench.results.tables.robustness import columns_of
from normbench.results.tables.table import PLAIN, SHARE, Row, Table
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.system.errors import UserError

LOWER_IS_BETTER = {"fid", "inception_fid"}
LARGEST = 1.0  # difference of two fractions
NUMBERS = ("difference", "low", "high", "p", "p_holm", "p_examples", "p_seeds")
COLUMNS = (
    dict.fromkeys(("kind", "task", "measure", "variant", "other", "seeds", "examples"), PLAIN)
    | dict.fromkeys(NUMBERS, SHARE)
    | {"verdict": PLAIN, "smallest_effect": SHARE, MISSING: PLAIN}
)

Outcomes = dict[int, dict[str, np.ndarray]]  # seed -> measure -> a value for each example, or one value of the run


@dataclass(frozen=True)
class Scored:
    """What the finished runs of a variant gave, and why runs have no outcomes."""

    outcomes: Outcomes = field(default_factory=dict)
    missing: str = ""


def comparisons(runs: dict[Kind, Runs], predictions: Known) -> Table:
    """Returns a row for each task, measure and two variants, in the order of the suite.

    A difference is that of the first variant minus the second: a fraction of images or pixels, a mean IoU or an FID.
    predictions: of the finished classifiers, or why there are none. The verdicts of one task and measure are adjusted
    together. Runs that failed are in no comparison. There is no smallest effect where not even the largest difference
    of two fractions would have been shown.
    """
    rows: list[Row] = []
    for kind, of_kind in runs.items():
        scored = {cell: _scored(kind, cell, records, predictions) for cell, records in of_kind.items()}
        for task in dict.fromkeys(task for task, _ in of_kind):
            variants = {variant: found for (of, variant), found in scored.items() if of == task}
            known = {name for each in variants.values() for values in each.outcomes.values() for name in values}
            for measure in [*(name for name in outcomes.NAMES if name in known), *sorted(known - {*outcomes.NAMES})]:
                rows += _table(kind, task, measure, variants)
    return Table(COLUMNS, rows)


def against(table: Table, kind: Kind, measure: str, reference: str | None) -> dict[tuple[str, str], str]:
    """Returns (task, variant) -> the verdict on a variant against a reference; an empty text where there is none."""
    found = {}
    for row in table.rows:
        if (row["kind"], row["measure"]) == (kind, measure) and reference in (row["variant"], row["other"]):
            first = row["other"] == reference
            verdict = row["verdict"] and (row["verdict"] if first else Verdict(row["verdict"]).reversed())
            found[row["task"], row["variant"] if first else row["other"]] = verdict
    return found


def _scored(kind: Kind, cell: tuple[str, str], records: list[Record], predictions: Known) -> Scored:
    done = finished(records)
    if kind is Kind.GAN:
        return Scored({record.seed: _of_gan(record) for record in done})
    if kind is Kind.SEGMENTATION:
        return _of_masks(cell, done)
    found = {record.seed: predictions[*cell, record.seed] for record in done}
    why = next((each for each in found.values() if isinstance(each, str)), "")
    return Scored({seed: each.outcomes() for seed, each in found.items() if isinstance(each, Predictions)}, why)


def _of_masks(cell: tuple[str, str], done: list[Record]) -> Scored:
    found: Outcomes = {}
    why = ""
    for record in done:
        try:
            found[record.seed] = outcomes.of_masks(*cell, record)
        except UserError as error:
            why = why or str(error)
    return Scored(found, why)


def _of_gan(record: Record) -> dict[str, np.ndarray]:
    """Returns the FIDs of a run, in the features of each network, as far as it has them."""
    found = {"fid": record.metrics.get("fid"), "inception_fid": columns_of(record).get("inception_fid")}
    return {name: np.asarray(value, float) for name, value in found.items() if value is not None}


def _table(kind: Kind, task: str, measure: str, variants: dict[str, Scored]) -> list[Row]:
    """Returns the rows of a task and measure, with their verdicts."""
    rows, differences = [], {}
    for place, (first, second) in enumerate(itertools.combinations(variants, 2)):
        one, other = (
            {seed: values[measure] for seed, values in variants[name].outcomes.items() if measure in values}
            for name in (first, second)
        )
        seeds = sorted(one.keys() & other.keys())
        row: Row = {"kind": kind.value, "task": task, "measure": measure, "variant": first, "other": second}
        row |= {"seeds": len(seeds), "examples": ""} | dict.fromkeys(NUMBERS, math.nan)
        row |= {"verdict": "", "smallest_effect": math.nan, MISSING: ""}
        if len({one[seed].shape for seed in seeds} | {other[seed].shape for seed in seeds}) > 1:
            row[MISSING] = "scored on different examples"
        elif not seeds:
            without = [name for name, found in ((first, one), (second, other)) if variants[name].outcomes and not found]
            row[MISSING] = (
                variants[first].missing
                or variants[second].missing
                or (f"not measured: {', '.join(without)}" if without else "no seed of which both runs finished")
            )
        else:
            stacked = np.stack([one[seed] for seed in seeds]), np.stack([other[seed] for seed in seeds])
            row["difference"] = float((stacked[0] - stacked[1]).mean())
            if len(seeds) > 1:
                found = paired(*stacked)
                row |= _numbers(found, stacked[0] - stacked[1])
                if len(seeds) >= FEWEST:
                    differences[place] = found
            if len(seeds) < FEWEST:
                counted = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
                row[MISSING] = f"verdict: {counted} in common, and a verdict needs {FEWEST}"
        rows.append(row)
    verdicts = judged(list(differences.values()), lower_is_better=measure in LOWER_IS_BETTER)
    for place, each in zip(differences, verdicts, strict=True):
        rows[place] |= {
            "p_holm": each.adjusted,
            "verdict": each.verdict.value,
            "smallest_effect": each.smallest_effect,
        }
        if measure not in LOWER_IS_BETTER and each.smallest_effect > LARGEST:
            rows[place] |= {"smallest_effect": math.nan, MISSING: "smallest_effect: above 100 points"}
    return rows


def _numbers(found: Difference, values: np.ndarray) -> Row:
    """Returns what a row says of a difference. values: (seeds, examples), or (seeds,)."""
    by_example = values.ndim == 2
    return {
        "examples": found.examples or "",
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_examples": permutation.of_examples(values) if by_example else math.nan,
        "p_seeds": permutation.of_seeds(values.mean(1) if by_example else values),
    }
