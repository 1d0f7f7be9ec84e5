"""Corruption accuracy against clean accuracy."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import HEIGHT, Chart, Spec, chart, seen
from normbench.results.charts.points import error_bar, leaders, name_points, names_of_points
from normbench.results.charts.scales import reach
from normbench.results.charts.tooltips import deviation, tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted

AXES = {"x": "clean_accuracy", "y": "corruption_accuracy"}


def robustness_chart(board: pd.DataFrame, looks: Looks) -> Chart | None:
    """Draws a point with its spread in both directions for each variant. board: the rows of a task."""
    shown = board[board["clean_accuracy"].notna() & board["corruption_accuracy"].notna()]
    if shown.empty:
        return None
    rows: list[Spec] = []
    for row in shown.to_dict("records"):
        found: Spec = {"variant": row["variant"]}
        for axis, column in AXES.items():
            found[axis] = seen(100 * row[column])
            spread = seen(100 * row[f"{column}_std"])
            found |= {f"sd_{axis}": spread} if spread else {}
        rows.append(found)
    domains = {axis: _domain(rows, axis) for axis in AXES}
    rows.sort(key=lambda row: (not looks[row["variant"]].baseline, -row["y"]))
    name_points(rows, domains["x"], domains["y"])
    legend = any("named" not in row for row in rows)
    low, high = min(rows, key=lambda row: row["y"]), max(rows, key=lambda row: row["y"])
    return chart(
        "robustness",
        "Clean and corrupted images",
        f"Corruption accuracy of {counted(len(rows), 'variant')} against their clean accuracy: "
        f"corrupted from {low['y']:g} % ({low['variant']}) to {high['y']:g} % ({high['variant']}), "
        f"clean from {min(row['x'] for row in rows):g} to {max(row['x'] for row in rows):g} %.",
        "Corruption accuracy is the mean over all corruptions and severities. Bars: standard deviation over seeds.",
        _spec(rows, domains, [name for name in board["variant"] if name in set(shown["variant"])], looks, legend),
    )


def _domain(rows: list[Spec], axis: str) -> list[float]:
    values = [row[axis] + sign * row.get(f"sd_{axis}", 0) for row in rows for sign in (-1, 1)]
    low, high = reach(values, 0.12)  # room for names at the sides
    return [round(low, 2), round(high, 2)]


def _spec(rows: list[Spec], domains: dict[str, list[float]], names: list[str], looks: Looks, legend: bool) -> Spec:
    look = encoding(names, looks, "color", "shape", legend=legend)
    opacity = faded(1) if legend else {"value": 1}
    position = {
        axis: {
            "field": axis,
            "type": "quantitative",
            "scale": {"domain": domains[axis], "nice": False, "zero": False},
            "title": f"{column.replace('_', ' ')} (%)",
            "axis": {"tickCount": 6},
        }
        for axis, column in AXES.items()
    }
    about = tooltip("variant", **{f"shown_{axis}": f"{column.replace('_', ' ')} (%)" for axis, column in AXES.items()})
    points = {
        "name": "points",
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": look | {"tooltip": about, "opacity": opacity},
    }
    bars = [error_bar(axis, look["color"], opacity) for axis in AXES]
    return {
        "height": HEIGHT,
        "data": {"values": rows},
        "params": [highlighter("points")] if legend else [],
        "transform": [deviation(axis) for axis in AXES],
        "encoding": position,
        "layer": [*bars, leaders(), points, names_of_points()],
    }
