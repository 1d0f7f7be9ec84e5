"""Variants across several tasks: interquartile mean, probability of improvement, average rank."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import MUTED, Chart, Spec, brief, chart, panels, seen
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import Looks, encoding, name_width
from normbench.results.words import counted

ROW = 20  # height of a row in pixels


def across_chart(overall: pd.DataFrame, looks: Looks) -> Chart | None:
    """Draws a panel for each summary, with a row for each variant, the best rank at the top. overall: overall.csv."""
    if overall.empty:
        return None
    table = overall.sort_values("average_rank", kind="stable")
    names = list(table["variant"])
    baseline = next((name for name in names if looks[name].baseline), None)
    each = [_rank_panel(table, names, looks)]
    intervals = {"iqm": "interquartile mean of accuracy (%)", "improvement": "probability of improvement (%)"}
    marks = {"iqm": None, "improvement": 50.0}
    each += [
        _interval_panel(table, column, title, names, looks, marks[column])
        for column, title in intervals.items()
        if table[column].notna().any()
    ]
    first = table.iloc[0]
    return chart(
        "across",
        "Across tasks",
        f"{counted(len(names), 'variant')} over {counted(int(first['tasks']), 'task')}: {names[0]} has the best "
        f"average rank, {brief(first['average_rank'], 3):g}, and {names[-1]} the worst, "
        f"{brief(table['average_rank'].iloc[-1], 3):g}; "
        f"the critical difference is {brief(first['critical_difference'], 3):g}.",
        "Ranks: 1 is best, and those within the shaded critical difference of the best cannot be told from it. The "
        "interquartile mean is over the middle half of all runs of all tasks. The probability of improvement is that "
        f"of a run over one of {baseline or 'the baseline'} in the same task, with a line at 50 %. "
        "Bars: 95 % intervals.",
        panels(each, 2, name_width(names)),
    )


def _row(names: list[str]) -> Spec:
    axis = {"title": None, "grid": True, "domain": False, "ticks": False}
    return {"field": "variant", "type": "nominal", "sort": names, "scale": {"domain": names}, "axis": axis}


def _rank_panel(table: pd.DataFrame, names: list[str], looks: Looks) -> Spec:
    rows = [{"variant": row["variant"], "rank": brief(row["average_rank"])} for row in table.to_dict("records")]
    layers: list[Spec] = []
    best, reach = float(table["average_rank"].min()), float(table["critical_difference"].iloc[0])
    highest = max(float(table["average_rank"].max()), best + (0.0 if pd.isna(reach) else reach))
    scale = {"domain": [0.9, brief(highest + 0.1)], "nice": False, "zero": False}
    x = {"field": "rank", "type": "quantitative", "title": "average rank", "scale": scale, "axis": {"tickCount": 6}}
    if pd.notna(reach):
        layers.append(
            {
                "data": {"values": [{"low": brief(best), "high": brief(best + reach)}]},
                "mark": {"type": "rect", "color": "currentColor", "opacity": 0.12},
                "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}},
            }
        )
    layers.append(
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": x, "y": _row(names), "tooltip": tooltip("variant", "rank")}
            | encoding(names, looks, "color", "shape", legend=False),
        }
    )
    return {"title": "average rank", "height": ROW * len(names), "data": {"values": rows}, "layer": layers}


def _interval_panel(
    table: pd.DataFrame, column: str, title: str, names: list[str], looks: Looks, mark: float | None
) -> Spec:
    """mark: where a vertical line stands, or None."""
    rows = []
    for row in table[table[column].notna()].to_dict("records"):
        found = {"variant": row["variant"], "value": seen(100 * row[column])}
        found |= {end: seen(100 * row[f"{column}_{end}"]) for end in ("low", "high")}
        rows.append(found)
    look = encoding(names, looks, "color", "shape", legend=False)
    x = {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False, "padding": 8}}
    layers: list[Spec] = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.5},
            "encoding": {"y": _row(names), "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": look["color"]},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"y": _row(names), "x": x, "tooltip": tooltip("variant", "value", range="95 % interval")}
            | look,
        },
    ]
    if mark is not None:
        line = {"data": {"values": [{}]}, "mark": {"type": "rule", **MUTED}, "encoding": {"x": {"datum": mark}}}
        layers.insert(0, line)
    return {
        "title": title.split(" (")[0],
        "height": ROW * len(names),
        "data": {"values": rows},
        "transform": [RANGE],
        "layer": layers,
    }
