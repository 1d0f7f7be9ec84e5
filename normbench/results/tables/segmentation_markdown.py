"""The table of segmentation as a Markdown table, and its IoU by class."""

from __future__ import annotations

import math

from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.markdown import (
    NO_VERDICTS,
    document,
    failures,
    marked,
    percent,
    table_text,
    verdict_text,
)
from normbench.results.tables.marks import Marks
from normbench.results.tables.segmentation import SCORES
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row, cell

HEADS = {
    "mean_iou": "mean IoU (%)",
    "pixel_accuracy": "pixel accuracy (%)",
    "corruption_mean_iou": "mean IoU, corrupted (%)",
    "corruption_pixel_accuracy": "pixel accuracy, corrupted (%)",
}
JUDGED = ("mean_iou", "corruption_mean_iou")  # the scores whose verdicts are shown
COUNTS = {"peak_memory_mib": ("peak memory (MiB)", ".1f"), "parameters": ("parameters", "d")}


def segmentation_markdown(rows: list[Row], classes: list[Row], baseline: str | None, standing: Standing) -> str:
    """Returns the text of the file: heading, caption, the rows of the table, and the IoU of each class.

    rows, classes: see `normbench.results.tables.segmentation`.
    """
    marks = Marks((row["why"] for row in rows), [*HEADS, *COUNTS, "runs"])
    leaders = {name: standing.leaders(rows, name, name) for name in SCORES}
    heads, aligned = ["task", "variant"], ["---", "---"]
    for name, head in HEADS.items():
        heads += [head, *(["against baseline"] if name in JUDGED else [])]
        aligned += ["---:", *(["---"] if name in JUDGED else [])]
    heads += [*(head for head, _ in COUNTS.values()), "finished runs", "failed runs"]
    aligned += ["---:"] * len(COUNTS) + ["---", "---"]

    def cells(row: Row) -> list[str]:
        shown = [markdown_cell(row["task"]), markdown_cell(row["variant"])]
        for name in HEADS:
            bold = (row["task"], row["variant"]) in leaders[name]
            shown.append(marked(percent(row[name], row[f"{name}_std"], bold), marks.of(row["why"], name)))
            if name in JUDGED:
                effect = 100 * standing.smallest_effect(row["task"], name, row["variant"], baseline or "")
                text = marked(verdict_text(row[f"{name}_verdict"], effect), "")
                shown.append("baseline" if row["variant"] == baseline else text)
        shown += [marked(cell(row[name], form), marks.of(row["why"], name)) for name, (_, form) in COUNTS.items()]
        return [*shown, marked(f"{row['finished']}/{row['runs']}", marks.of(row["why"], "runs")), failures(row)]

    table = table_text([heads, aligned, *map(cells, rows)])
    below = [_verdicts(rows, baseline), *_by_class(classes)]
    return document(["# Segmentation", _caption(rows), table, *below], marks)


def _caption(rows: list[Row]) -> str:
    if not rows:
        return "The suite has no task of segmentation."
    sentences = [
        "Mean ± sample standard deviation over the finished runs of a variant, one run a seed. Each score is of one "
        "confusion matrix over all pixels of the test images; corrupted: mean over corruptions and severities."
    ]
    theirs = sorted({row["task"] for row in rows if row["protocol"] == "authors"})
    if theirs:
        names = ", ".join(map(markdown_cell, theirs))
        sentences.append(
            f"Scored by the protocol of Network Deconvolution's authors, which compares with no other work: {names}."
        )
    return " ".join(sentences)


def _verdicts(rows: list[Row], baseline: str | None) -> str:
    if baseline is None or not rows:
        return ""
    if not any(row[f"{name}_verdict"] for row in rows for name in JUDGED):
        return NO_VERDICTS
    return (
        f"Verdicts compare the runs with those of `{baseline}` by seeds, with Holm's correction over all pairs of "
        "variants of a task. In brackets: the smallest difference, in points, that this many seeds would have shown "
        "with 80 % power; without one, not even 100 points would have been. In bold: the best, and what is "
        "indistinguishable from it."
    )


def _by_class(classes: list[Row]) -> list[str]:
    """Returns for each task a table of the IoU of each class in percent, a column a variant."""
    parts = []
    for task in dict.fromkeys(row["task"] for row in classes):
        own = [row for row in classes if row["task"] == task]
        variants = list(dict.fromkeys(row["variant"] for row in own))
        found = {(row["class"], row["variant"]): row["iou"] for row in own}
        lines = [["class", *map(markdown_cell, variants)], ["---", *["---:"] * len(variants)]]
        for name in dict.fromkeys(row["class"] for row in own):
            values = [found[name, variant] for variant in variants]
            texts = ["" if math.isnan(value) else f"{100 * value:.2f}" for value in values]
            lines.append([markdown_cell(name), *(marked(text, "") for text in texts)])
        parts.append(f"IoU by class in {markdown_cell(task)}, %:\n\n{table_text(lines)}")
    return parts
