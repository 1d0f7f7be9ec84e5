"""The leaderboard as a Markdown table."""

from __future__ import annotations

import math

from normbench.corruptions import MAIN
from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.marks import Marks
from normbench.results.tables.table import Row, cell
from normbench.suite.suite import Suite

HEAD = ["task", "variant", "clean accuracy (%)", "corruption accuracy (%)", "mCE (%)"]
HEAD += ["peak memory (MiB)", "parameters", "runs"]
DASH = "\N{EN DASH}"
ALIGNED = ["---", "---", *["---:"] * 5, "---"]
FORMATS = {"mce": ".1f", "peak_memory_mib": ".1f", "parameters": "d"}


def markdown(rows: list[Row], suite: Suite, corruptions: Corruptions) -> str:
    """Returns the text of the file: heading, caption and the rows of the leaderboard."""
    marks = Marks(row["why"] for row in rows)
    lines = [HEAD, ALIGNED, *(_cells(row, marks) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n({mark}) {markdown_cell(reason)}  " for mark, reason in marks.reasons())
    return f"# Leaderboard\n\n{_caption(rows, suite, corruptions)}\n\n{table}\n" + (f"{notes}\n" if notes else "")


def _cells(row: Row, marks: Marks) -> list[str]:
    def marked(text: str, name: str) -> str:
        mark = marks.of(row["why"], name)
        return f"{text or DASH} ({mark})" if mark else text

    accuracies = [
        marked(percent(row[name], row[f"{name}_std"]), name) for name in ("clean_accuracy", "corruption_accuracy")
    ]
    numbers = [marked(cell(row[name], form), name) for name, form in FORMATS.items()]
    return [
        markdown_cell(row["task"]),
        markdown_cell(row["variant"]) + (f" (tuned, {row['tuned']} trials)" if row["tuned"] else ""),
        *accuracies,
        *numbers,
        marked(outcome(row["finished"], row["diverged"]), "runs"),
    ]


def _caption(rows: list[Row], suite: Suite, corruptions: Corruptions) -> str:
    sentences = ["Mean ± sample standard deviation over the finished runs of a variant, one run a seed."]
    if suite.tasks:
        over = f"{len(corruptions.main)} of the {len(MAIN)} main corruptions"
        sentences.append(f"mCE is relative to `{suite.baseline}`, over {over}.")
    if any(row["tuned"] for row in rows):
        sentences.append(
            "Tuned: learning rate, weight decay and options were chosen by so many trials on training images that were "
            "held out; compare such rows with each other."
        )
    return " ".join(sentences)


def percent(mean: float, deviation: float) -> str:
    """Returns two fractions in percent, `98.61 ± 0.32`; without a deviation the mean alone; empty without a mean."""
    spread = "" if math.isnan(deviation) else f" ± {100 * deviation:.2f}"
    return "" if math.isnan(mean) else f"{100 * mean:.2f}{spread}"


def outcome(finished: int, diverged: int) -> str:
    """Returns how the runs of a variant ended: `3/3`, or `diverged 2/3`."""
    return f"diverged {diverged}/{finished + diverged}" if diverged else f"{finished}/{finished}"
