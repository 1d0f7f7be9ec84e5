"""The leaderboard as a Markdown table."""

from __future__ import annotations

import math

from normbench.corruptions import MAIN
from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.table import Row, cell
from normbench.suite.suite import Suite

HEAD = ["task", "variant", "clean accuracy (%)", "corruption accuracy (%)", "mCE (%)", "images/s"]
HEAD += ["peak memory (MiB)", "parameters", "seconds", "runs"]
ALIGNED = ["---", "---", *["---:"] * 7, "---"]
FORMATS = {"mce": ".1f", "images_per_second": ".0f", "peak_memory_mib": ".1f", "parameters": "d", "seconds": ".1f"}


def markdown(rows: list[Row], suite: Suite, corruptions: Corruptions) -> str:
    """Returns the text of the file: heading, caption and the rows of the leaderboard."""
    lines = [HEAD, ALIGNED, *map(_cells, rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# Leaderboard\n\n{_caption(rows, suite, corruptions)}\n\n{table}\n"


def _cells(row: Row) -> list[str]:
    accuracies = [percent(row[name], row[f"{name}_std"]) for name in ("clean_accuracy", "corruption_accuracy")]
    numbers = [cell(row[name], form) for name, form in FORMATS.items()]
    return [
        markdown_cell(row["task"]),
        markdown_cell(row["variant"]),
        *accuracies,
        *numbers,
        outcome(row["finished"], row["diverged"]),
    ]


def _caption(rows: list[Row], suite: Suite, corruptions: Corruptions) -> str:
    sentences = ["Mean ± sample standard deviation over the finished runs of a variant, one run a seed."]
    if suite.tasks:
        over = f"{len(corruptions.main)} of the {len(MAIN)} main corruptions"
        sentences.append(f"mCE is relative to `{suite.baseline}`, over {over}.")
    if rows:
        beside = max(row["side_by_side"] for row in rows)
        shared = f"of which up to {beside} shared the machine" if beside > 1 else "that had the machine to themselves"
        sentences.append(f"Speed and seconds are those of runs {shared}.")
    return " ".join(sentences)


def percent(mean: float, deviation: float) -> str:
    """Returns two fractions in percent, `98.61 ± 0.32`; without a deviation the mean alone; empty without a mean."""
    spread = "" if math.isnan(deviation) else f" ± {100 * deviation:.2f}"
    return "" if math.isnan(mean) else f"{100 * mean:.2f}{spread}"


def outcome(finished: int, diverged: int) -> str:
    """Returns how the runs of a variant ended: `3/3`, or `diverged 2/3`."""
    return f"diverged {diverged}/{finished + diverged}" if diverged else f"{finished}/{finished}"
