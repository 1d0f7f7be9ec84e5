"""The sections of the report: one for each task and each GAN task."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from normbench.results.best import clear_best, clear_bests
from normbench.results.columns import Columns, robustness_columns, smoothness_columns, suspicious
from normbench.results.drawing import WIDTH, Look, inline
from normbench.results.heatmap import heatmap
from normbench.results.loss_plot import loss_plot
from normbench.results.notes import Notes
from normbench.results.scatter import robustness_plot, speed_plot
from normbench.results.smoothness_plots import energy_plot, feature_plot, layer_plot
from normbench.results.tables.facts import TaskFacts
from normbench.results.tables.table import Row
from normbench.system.narrowing import narrowed
from normbench.training.task import Task

Tables = dict[str, pd.DataFrame]  # by the name of their file

MANY = 8  # with more variants than this, plots are as wide as the page
SHOWN = ("clean_accuracy", "corruption_accuracy", "mce", "fid", "images_per_second", "seconds")  # may lack numbers
TITLES = {
    "speed": "Clean accuracy against training speed",
    "robustness": "Corruption accuracy against clean accuracy",
    "corruptions": "Accuracy by variant and corruption",
    "loss": "Training loss by epoch",
    "layers": "Norm of each layer",
    "features": "Size of feature maps by depth",
    "energy": "Energy of feature maps by frequency",
}


@dataclass(frozen=True)
class TaskSection:
    """The values that the template shows for a task.

    rows: of the leaderboard. best: column -> the variants to mark. suspicious: variants whose attacks cannot be
    trusted. off: the scores that `evaluation` has off. notes: why cells of the leaderboard are empty. unfinished:
    variants without a finished run. plots: by their keys in `TITLES`. wide: whether plots are as wide as the page.
    """

    name: str
    facts: TaskFacts
    rows: list[Row]
    best: dict[str, list[str]]
    robustness: Columns
    suspicious: list[str]
    smoothness: Columns
    off: list[str]
    notes: Notes
    unfinished: list[str]
    plots: dict[str, Markup]
    wide: bool


@dataclass(frozen=True)
class GanSection:
    """The values that the template shows for a GAN task.

    rows: of gan.csv. best: the variant to mark, or None. samples: variant, seed and data address of each grid of
    samples. notes: why cells are empty.
    """

    name: str
    facts: TaskFacts
    rows: list[Row]
    best: str | None
    samples: list[tuple[str, str, str]]
    notes: Notes


def task_section(
    key: str, name: str, facts: TaskFacts, tables: Tables, looks: dict[str, Look], missing: dict[str, Any]
) -> TaskSection:
    """Returns the section of a task.

    key: a prefix, unique to the task, for the ids of elements in its plots. missing: the content of missing.json.
    """
    why = {table: missing[table].get(name, {}) for table in ("leaderboard", "robustness", "smoothness")}
    own = {table: found[found["task"] == name] for table, found in tables.items()}
    rows = own["leaderboard"].to_dict("records")
    variants = [row["variant"] for row in rows]
    task = narrowed(facts.task, Task, f"task {name}")
    figures = draw(own, task.recipe.epochs, {variant: looks[variant] for variant in variants})
    return TaskSection(
        name=name,
        facts=facts,
        rows=rows,
        off=missing["off"].get(name, []),
        notes=Notes(why["leaderboard"], SHOWN),
        best={column: clear_bests(rows, column, True) for column in ("clean_accuracy", "corruption_accuracy")},
        robustness=robustness_columns(variants, own["robustness"], why["robustness"]),
        suspicious=suspicious(own["robustness"]),
        smoothness=smoothness_columns(variants, own["smoothness"], why["smoothness"]),
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        plots={plot: inline(figure, f"{key}-{plot}", TITLES[plot]) for plot, figure in figures.items()},
        wide=len(rows) > MANY,
    )


def draw(own: Tables, epochs: int, looks: dict[str, Look]) -> dict[str, Figure]:
    """Draws the plots of a task for which there are numbers; returns them by their keys in `TITLES`.

    own: the rows of the task in each table. epochs: of a finished run. looks: by variant, in the order of the
    leaderboard.
    """
    rows = own["leaderboard"].to_dict("records")
    width = 2 * WIDTH if len(rows) > MANY else WIDTH
    finished = [row for row in rows if row["finished"]]
    timed = [row for row in finished if not math.isnan(row["images_per_second"])]
    figures = {}
    if timed:
        figures["speed"] = speed_plot(timed, looks)
    if finished:
        figures["robustness"] = robustness_plot(finished, looks)
        figures["corruptions"] = heatmap(finished, own["corruptions"], width)
    if len(own["curves"]):
        figures["loss"] = loss_plot(own["curves"], list(looks), epochs, looks, width)
    if len(own["layers"]):
        figures["layers"] = layer_plot(own["layers"], looks, width)
    if len(own["features"]):
        figures["features"] = feature_plot(own["features"], looks, width)
        figures["energy"] = energy_plot(own["features"], looks)
    return figures


def gan_section(name: str, facts: TaskFacts, table: pd.DataFrame, folder: Path, missing: dict[str, Any]) -> GanSection:
    """Returns the section of a GAN task.

    table: gan.csv. folder: holds the samples as `<task>/<variant>/<seed>.png`. missing: the content of missing.json.
    """
    rows = table[table["task"] == name].to_dict("records")
    samples = [
        (row["variant"], path.stem, data_address(path))
        for row in rows
        for path in sorted((folder / name / row["variant"]).glob("*.png"))
    ]
    return GanSection(
        name, facts, rows, clear_best(rows, "fid", False), samples, Notes(missing["gan"].get(name, {}), SHOWN)
    )


def data_address(path: Path) -> str:
    """Returns a PNG file as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
