"""Accuracy against the share of wrong training labels, or of the training images that are used.

Such a chart has tasks that are alike in everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, chart, seen, sentence
from normbench.results.charts.lines import PANEL_HEIGHT, lines
from normbench.results.charts.scales import LABEL
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted
from normbench.training.task import Task


def _noise(task: Task) -> float:
    return 100 * task.label_noise.fraction if task.label_noise else 0.0


def _fraction(task: Task) -> float:
    return 100 * task.train_fraction


# Key -> title, axis, the fields of a task that may differ, and its value in percent.
CONDITIONS: dict[str, tuple[str, str, str, Callable[[Task], float]]] = {
    "label-noise": ("Label noise", "replaced training labels (%)", "label_noise", _noise),
    "train-fraction": ("Scarce data", "training images used (%)", "train_fraction", _fraction),
}


def condition_charts(board: pd.DataFrame, tasks: Mapping[str, Task], looks: Looks) -> list[Chart]:
    """Returns a chart for each group of tasks that differ only in label noise or in the training fraction.

    board: leaderboard.csv.
    """
    found = []
    for key, (title, axis, field, value) in CONDITIONS.items():
        groups = alike(tasks, field, value)
        for place, group in enumerate(groups, 1):
            name = f"{key}-{place}" if len(groups) > 1 else key
            drawn = _chart(name, title, axis, board, {task: value(tasks[task]) for task in group}, looks)
            if drawn is not None:
                found.append(drawn)
    return found


def alike(tasks: Mapping[str, Task], field: str, value: Callable[[Task], float]) -> list[list[str]]:
    """Returns the groups of two or more tasks that differ in a field alone, each in the order of its value.

    Label noise of another kind is another task; a task without label noise belongs to all kinds.
    """
    rest: dict[str, list[str]] = {}
    for name, task in tasks.items():
        rest.setdefault(repr(_apart_from(task, field)), []).append(name)
    groups = []
    for names in rest.values():
        kinds = {task.label_noise.kind for name in names if (task := tasks[name]).label_noise}
        for kind in sorted(kinds) if field == "label_noise" else [None]:
            own = [
                name
                for name in names
                if kind is None or (noise := tasks[name].label_noise) is None or noise.kind == kind
            ]
            by_value = {value(tasks[name]): name for name in sorted(own, reverse=True)}
            if len(by_value) > 1:
                groups.append([by_value[key] for key in sorted(by_value)])
    return groups


def _apart_from(task: Task, field: str) -> dict[str, Any]:
    return task.model_dump(mode="json", exclude={"name", "seeds", field})


def _chart(
    key: str, title: str, axis: str, board: pd.DataFrame, values: dict[str, float], looks: Looks
) -> Chart | None:
    table = board[board["task"].isin(values) & board["clean_accuracy"].notna()]
    rows: list[Spec] = []
    for row in table.to_dict("records"):
        mean, spread = seen(100 * row["clean_accuracy"]), seen(100 * row["clean_accuracy_std"])
        bar = {"low": seen(mean - spread), "high": seen(mean + spread)} if mean and spread else {}
        rows.append(
            {"variant": row["variant"], "task": row["task"], "at": seen(values[row["task"]]), "value": mean} | bar
        )
    rows.sort(key=lambda row: row["at"])
    names = [name for name in looks if any(row["variant"] == name for row in rows)]
    if len({row["at"] for row in rows}) < 2:
        return None
    look = encoding(names, looks, "color", "shape", "strokeDash")
    bars = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule"},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": look["color"],
            "opacity": faded(0.7),
        },
    }
    x = {"field": "at", "type": "quantitative", "title": axis, "scale": {"zero": False, "nice": False, "padding": 10}}
    x["axis"] = {"values": sorted({row["at"] for row in rows}), "labelExpr": LABEL}
    y = {"field": "value", "type": "quantitative", "title": "clean accuracy (%)", "scale": {"zero": False}}
    ends = ", ".join(
        f"at {at:g} % from {min(own):g} to {max(own):g} %"
        for at in (rows[0]["at"], rows[-1]["at"])
        for own in [[row["value"] for row in rows if row["at"] == at]]
    )
    panel = lines(
        rows, x, y, look, tooltip("variant", "task", "value", "range"), "lines", below=[bars], transform=[RANGE]
    )
    return chart(
        key,
        title,
        sentence(f"clean accuracy of {counted(len(names), 'variant')} against {axis.removesuffix(' (%)')}: {ends}."),
        f"Tasks that are alike in everything else: {', '.join(values)}. Bars: standard deviation over seeds.",
        panel | {"height": PANEL_HEIGHT, "params": [highlighter("lines")]},
    )
