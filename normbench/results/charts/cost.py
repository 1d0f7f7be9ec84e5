"""Accuracy, corruption error or FID against what a variant costs, with the Pareto front."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd

from normbench.results.charts.chart import HEIGHT, MUTED, Chart, Spec, brief, chart, seen, sentence
from normbench.results.charts.pareto import front
from normbench.results.charts.points import error_bar, leaders, name_points, names_of_points
from normbench.results.charts.scales import logarithmic, number, reach, ticks
from normbench.results.charts.tooltips import deviation, tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted

# Column -> its name, factor from the table to the chart, and whether high values are good.
MEASURES = {
    "clean_accuracy": ("clean accuracy (%)", 100, True),
    "corruption_accuracy": ("corruption accuracy (%)", 100, True),
    "mce": ("mean corruption error (%)", 1, False),
    "mean_iou": ("mean IoU (%)", 100, True),
    "corruption_mean_iou": ("mean IoU, corrupted (%)", 100, True),
    "fid": ("FID", 1, False),
}
COSTS = {
    "images_per_second": ("training speed (images/s)", True),
    "seconds": ("time of a run (s)", False),
    "peak_memory_mib": ("peak memory (MiB)", False),
    "parameters": ("parameters", False),
}


def cost_chart(board: pd.DataFrame, speeds: pd.DataFrame, looks: Looks) -> Chart | None:
    """Draws each measure of the leaderboard against each cost; the reader chooses which.

    board: the rows of a task in leaderboard.csv, segmentation.csv or gan.csv. speeds: those in speeds.csv.
    """
    if board.empty:
        return None
    table = board.merge(comparable(speeds), on="variant", how="left")
    measures = [name for name in MEASURES if name in table and table[name].notna().any()]
    costs = [name for name in COSTS if name in table and table[name].notna().any()]
    rows: list[Spec] = []
    axes: dict[str, Spec] = {}
    for measure in measures:
        axes[measure] = _measure_axis(table, measure)
        for cost in costs:
            shown = table[table[measure].notna() & table[cost].notna()]
            if len(shown):
                axes.setdefault(cost, _cost_axis(table[cost]))
                rows += _points(shown, measure, cost, axes)
    if not rows:
        return None
    first = [row for row in rows if row["measure"] == rows[0]["measure"] and row["cost"] == rows[0]["cost"]]
    drawn = [row["variant"] for row in rows]
    names = [name for name in board["variant"] if name in drawn]
    spec = _spec(rows, axes, names, looks, legend=any("label" not in row for row in rows))
    return chart(
        "cost",
        "What accuracy costs" if "fid" not in measures else "What a low FID costs",
        _alt(first),
        "The dashed line joins the variants that no other beats in both. Bars: standard deviation over seeds. "
        "A speed or a time is shown if the variant was timed under the same conditions as the baseline.",
        spec,
    )


def comparable(speeds: pd.DataFrame) -> pd.DataFrame:
    """Returns the speeds and times that were measured under like conditions: those with a ratio to the baseline's."""
    columns = ["variant", "images_per_second", "seconds"]
    return speeds.loc[speeds["ratio"].notna(), columns] if len(speeds) else pd.DataFrame(columns=columns)


def _cost_axis(values: pd.Series) -> Spec:
    log = logarithmic(values, 3)
    low, high = reach(np.log10(values) if log else values, 0.12)  # room for names at the sides
    each = ticks(10**low, 10**high, True) if log else ticks(low, high, False)
    return {
        "log": log,
        "domain": [brief(low, 6), brief(high, 6)],
        "values": [round(math.log10(tick), 6) if log else tick for tick in each],
        "labels": [number(tick) for tick in each],
    }


def _measure_axis(table: pd.DataFrame, measure: str) -> Spec:
    _, factor, _ = MEASURES[measure]
    spread = _spread(table, measure)
    low, high = reach([*(factor * (table[measure] - spread)), *(factor * (table[measure] + spread))])
    return {"domain": [seen(low), seen(high)]}


def _spread(table: pd.DataFrame, measure: str) -> pd.Series:
    """Returns the standard deviations of a measure, 0 where there is none."""
    return table.get(f"{measure}_std", pd.Series(0.0, table.index)).astype(float).fillna(0.0)


def _points(table: pd.DataFrame, measure: str, cost: str, axes: dict[str, Spec]) -> list[Spec]:
    """Returns the rows of the chart for one measure and one cost, in the order in which their names are placed."""
    _, factor, high_is_good = MEASURES[measure]
    _, fast_is_good = COSTS[cost]
    axis, upright = axes[cost], axes[measure]
    y, spread = factor * table[measure], factor * _spread(table, measure)
    x = np.log10(table[cost]) if axis["log"] else table[cost]
    best = front(np.stack([-x if fast_is_good else x, -y if high_is_good else y], axis=1).astype(float))
    order = sorted(range(len(table)), key=lambda i: (not best[i], -y.iloc[i] if high_is_good else y.iloc[i]))

    rows = []
    for i in order:
        row = {"variant": table["variant"].iloc[i], "measure": measure, "cost": cost}
        row |= {"x": brief(x.iloc[i], 6), "y": seen(y.iloc[i]), "of": number(table[cost].iloc[i])}
        row |= {"front": int(best[i])} | ({"sd_y": seen(spread.iloc[i])} if spread.iloc[i] else {})
        rows.append(row)
    name_points(rows, axis["domain"], upright["domain"])
    return rows


def _spec(rows: list[Spec], axes: dict[str, Spec], names: list[str], looks: Looks, legend: bool) -> Spec:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    costs = list(dict.fromkeys(row["cost"] for row in rows))
    titles = {name: MEASURES[name][0] for name in measures} | {name: COSTS[name][0] for name in costs}

    def choice(name: str, options: list[str], title: str) -> Spec:
        labels = [titles[option] for option in options]
        bound = {"input": "select", "options": options, "labels": labels, "name": f"{title} "}
        return {"name": name, "value": options[0], "bind": bound}

    known = {name: axis | {"title": titles[name]} for name, axis in axes.items()}
    params = [
        choice("measure", measures, "Up:"),
        choice("cost", costs, "Across:"),
        {"name": "across", "expr": f"({json.dumps({name: known[name] for name in costs})})[cost]"},
        {"name": "upright", "expr": f"({json.dumps({name: known[name] for name in measures})})[measure]"},
    ]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": {"expr": "across.domain"}, "nice": False, "zero": False},
        "axis": {
            "title": {"expr": "across.title"},
            "values": {"expr": "across.values"},
            "labelExpr": "across.labels[indexof(across.values, datum.value)]",
        },
    }
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": {"expr": "upright.domain"}, "nice": False, "zero": False},
        "axis": {"title": {"expr": "upright.title"}, "tickCount": 6},
    }
    look = encoding(names, looks, "color", "shape", legend=legend)
    opacity = faded(1) if legend else {"value": 1}
    about = tooltip("variant", shown_y="value", of="cost")
    return {
        "height": HEIGHT,
        "data": {"values": rows},
        "transform": [{"filter": "datum.measure == measure && datum.cost == cost"}, deviation("y")],
        "params": [*params, *([highlighter("points")] if legend else [])],
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "transform": [{"filter": "datum.front"}],
                "mark": {"type": "line", "color": "currentColor", "strokeDash": [4, 3], "strokeWidth": 1, **MUTED},
                "encoding": {"order": {"field": "x", "type": "quantitative"}},
            },
            error_bar("y", look["color"], opacity),
            leaders(),
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": look | {"tooltip": about, "opacity": opacity},
            },
            names_of_points(),
        ],
    }


def _alt(rows: list[Spec]) -> str:
    """Returns the sentence for the first measure and cost."""
    measure, high_is_good = MEASURES[rows[0]["measure"]][0], MEASURES[rows[0]["measure"]][2]
    best = (max if high_is_good else min)(rows, key=lambda row: row["y"])
    winners = ", ".join(row["variant"] for row in rows if row["front"])
    cost = COSTS[rows[0]["cost"]][0]
    return sentence(
        f"{measure} of {counted(len(rows), 'variant')} against {cost}: from {min(row['y'] for row in rows):g} to "
        f"{max(row['y'] for row in rows):g}, best {best['variant']}; no other beats {winners} in both."
    )
