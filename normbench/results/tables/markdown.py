"""The leaderboard as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from normbench.comparison.verdicts import FEWEST, Verdict
from normbench.corruptions import MAIN
from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.marks import Marks
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row, cell
from normbench.suite.suite import Suite

HEAD = ["task", "variant", "clean accuracy (%)", "against baseline", "corruption accuracy (%)", "against baseline"]
HEAD += ["mCE (%)", "peak memory (MiB)", "parameters", "finished runs", "failed runs"]
ALIGNED = ["---", "---", "---:", "---", "---:", "---", "---:", "---:", "---:", "---", "---"]
DASH = "\N{EN DASH}"
ACCURACIES = {"clean_accuracy": "clean_verdict", "corruption_accuracy": "corruption_verdict"}
NO_VERDICTS = f"There are no verdicts: one needs at least {FEWEST} seeds that finished in both of two variants."
FORMATS = {"mce": ".1f", "peak_memory_mib": ".1f", "parameters": "d"}


def markdown(
    rows: list[Row], suite: Suite, corruptions: Corruptions, standing: Standing, test_images: Mapping[str, int]
) -> str:
    """Returns the text of the file: heading, caption, the rows of the leaderboard, and what they can show.

    test_images: how many there are, by task.
    """
    marks = Marks(row["why"] for row in rows)
    leaders = {name: standing.leaders(rows, name, name) for name in ACCURACIES}
    table = table_text([HEAD, ALIGNED, *(_cells(row, marks, suite.baseline, standing, leaders) for row in rows)])
    below = [_resolution(test_images), _verdicts(rows, suite.baseline)]
    return document(["# Leaderboard", _caption(rows, suite, corruptions), table, *below], marks)


def table_text(lines: list[list[str]]) -> str:
    """Returns a Markdown table. lines: its heads, how its columns are aligned, and then the cells of its rows."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(parts: list[str], marks: Marks) -> str:
    """Returns the text of a file: those of its parts that are not empty, and then what its marks mean."""
    notes = "".join(f"\n({mark}) {markdown_cell(reason)}  " for mark, reason in marks.reasons())
    return "\n\n".join(filter(None, parts)) + "\n" + (f"{notes}\n" if notes else "")


def marked(text: str, mark: str) -> str:
    """Returns a cell with the mark of its reason, if it has one; a dash if it is empty."""
    return f"{text or DASH} ({mark})" if mark else text or DASH


def _cells(
    row: Row, marks: Marks, baseline: str | None, standing: Standing, leaders: Mapping[str, set[tuple[str, str]]]
) -> list[str]:
    def cell_of(text: str, name: str) -> str:
        return marked(text, marks.of(row["why"], name))

    shown: list[str] = []
    for name, verdict in ACCURACIES.items():
        bold = (row["task"], row["variant"]) in leaders[name]
        shown.append(cell_of(percent(row[name], row[f"{name}_std"], bold), name))
        effect = 100 * standing.smallest_effect(row["task"], name, row["variant"], baseline or "")
        text = cell_of(verdict_text(row[verdict], effect), verdict)
        shown.append("baseline" if row["variant"] == baseline else text)
    return [
        markdown_cell(row["task"]),
        markdown_cell(row["variant"]) + (f" (tuned, {row['tuned']} trials)" if row["tuned"] else ""),
        *shown,
        *(cell_of(cell(row[name], form), name) for name, form in FORMATS.items()),
        cell_of(f"{row['finished']}/{row['runs']}", "runs"),
        failures(row),
    ]


def verdict_text(verdict: str, smallest_effect: float) -> str:
    """Returns a verdict, with the smallest effect, in the unit of the column, where the two do not differ."""
    if verdict == Verdict.INDISTINGUISHABLE and not math.isnan(smallest_effect):
        return f"{verdict} ({smallest_effect:.2f})"
    return verdict


def _caption(rows: list[Row], suite: Suite, corruptions: Corruptions) -> str:
    sentences = ["Mean ± sample standard deviation over the finished runs of a variant, one run a seed."]
    if suite.tasks and suite.baseline is not None:
        over = f"{len(corruptions.main)} of the {len(MAIN)} main corruptions"
        sentences.append(f"mCE is relative to `{suite.baseline}`, over {over}.")
    if any(row["tuned"] for row in rows):
        sentences.append(
            "Tuned: learning rate, weight decay and options were chosen by so many trials on training images that were "
            "held out; compare such rows with each other."
        )
    return " ".join(sentences)


def _resolution(test_images: Mapping[str, int]) -> str:
    """Returns what one test image is worth in each task."""
    parts = []
    for task, count in test_images.items():
        points = float(f"{100 / count:.2g}")  # without an exponent, whatever the number
        parts.append(f"{markdown_cell(task)} has {count} test images, so one image of one run is {points:g} points")
    return "; ".join(parts) + "." if parts else ""


def _verdicts(rows: list[Row], baseline: str | None) -> str:
    """Returns how the verdicts are to be read, or why there are none."""
    if baseline is None or not rows:
        return ""
    if not any(row[verdict] for row in rows for verdict in ACCURACIES.values()):
        return NO_VERDICTS
    return (
        f"Verdicts compare the runs with those of `{baseline}` by seeds and test images, with Holm's correction over "
        "all pairs of variants of a task. In brackets: the smallest difference, in points, that this many seeds and "
        "images would have shown with 80 % power; without one, not even 100 points would have been. In bold: the best, "
        "and what is indistinguishable from it."
    )


def percent(mean: float, deviation: float, bold: bool) -> str:
    """Returns two fractions in percent, `98.61 ± 0.32`; without a deviation the mean alone; empty without a mean."""
    if math.isnan(mean):
        return ""
    text = f"**{100 * mean:.2f}**" if bold else f"{100 * mean:.2f}"
    return text if math.isnan(deviation) else f"{text} ± {100 * deviation:.2f}"


def failures(row: Row) -> str:
    """Returns how many runs of a variant failed, and how: `0`, or `2 diverged, 1 collapsed`."""
    return ", ".join(f"{row[kind]} {kind}" for kind in ("diverged", "collapsed") if row[kind]) or "0"


def outcome(finished: int, diverged: int) -> str:
    """Returns how the runs of a variant ended: `3/3`, or `diverged 2/3`."""
    return f"diverged {diverged}/{finished + diverged}" if diverged else f"{finished}/{finished}"
