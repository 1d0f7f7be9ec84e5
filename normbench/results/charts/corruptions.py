"""Accuracy by variant and corruption, as a table of coloured cells with a slider for the severity."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, chart, seen
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks
from normbench.results.words import counted

ROW = 20  # height of a row in pixels
CLEAN, MEAN = "clean", "mean"
DIFFERENCE = "difference to the baseline"


def corruption_chart(board: pd.DataFrame, grid: pd.DataFrame, looks: Looks) -> Chart | None:
    """Draws a row for each variant and a column for clean images, each corruption, and their mean.

    board, grid: the rows of a task in leaderboard.csv and corruptions.csv.
    """
    levels = [name for name in grid.columns if name.startswith("severity_")]
    grid = grid[grid["mean"].notna()]
    names = [name for name in board["variant"] if name in set(grid["variant"])]
    if not names:
        return None
    columns = ["mean", *levels]
    found = {variant: own.set_index("corruption")[columns] for variant, own in grid.groupby("variant")}
    clean = board.set_index("variant")["clean_accuracy"]
    baseline = next((name for name in names if looks[name].baseline), None)
    corruptions = list(dict.fromkeys(grid["corruption"]))
    rows: list[Spec] = []
    for name in names:
        lines = {CLEAN: [clean[name]] * len(columns)}
        lines |= {corruption: list(found[name].loc[corruption]) for corruption in corruptions}
        lines |= {MEAN: list(found[name].mean())}
        rows += [
            {
                "variant": name,
                "corruption": each.replace("_", " "),
                "values": [seen(100 * value, 1) for value in line],
                "reference": None,
            }
            for each, line in lines.items()
        ]
    if baseline is not None:
        reference = {row["corruption"]: row["values"] for row in rows if row["variant"] == baseline}
        for row in rows:
            row["reference"] = reference[row["corruption"]]
    severities = [level.removeprefix("severity_") for level in levels]
    means = {row["variant"]: row["values"][0] for row in rows if row["corruption"] == MEAN}
    low, high = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    return chart(
        "corruptions",
        "Accuracy by corruption",
        f"Accuracy of {counted(len(names), 'variant')} under {counted(len(corruptions), 'corruption')}: the mean "
        f"over all of them and their severities lies from {means[low]:g} % ({low}) to {means[high]:g} % ({high}).",
        "Percent of the test images that are classified rightly, mean over seeds; variants from top to bottom as in "
        "the leaderboard.",
        _spec(rows, severities, ROW * len(names), compared=baseline is not None),
    )


def _spec(rows: list[Spec], severities: list[str], height: int, compared: bool) -> Spec:
    """compared: whether there is a baseline to compare with."""
    titles = ["mean over severities", *(f"severity {severity}" for severity in severities)]
    places = enumerate(severities, 1)
    meanings = ["0: mean", *(f"{place}: {severity}" for place, severity in places if str(place) != severity)]
    slider = {"input": "range", "min": 0, "max": len(severities), "step": 1}
    slider["name"] = f"Severity ({', '.join(meanings)}) "
    options = ["accuracy", DIFFERENCE] if compared else ["accuracy"]
    shown = {"input": "select", "options": options, "name": "Shown "}
    differs = f"shown == '{DIFFERENCE}'"
    every = [value for row in rows for value in row["values"] if value is not None]
    low, high = min(every), max(every)
    gaps = [
        abs(value - other)
        for row in rows
        for value, other in zip(row["values"], row["reference"] or row["values"], strict=True)
        if value is not None and other is not None
    ]
    gap = max([*gaps, 1.0])
    params: list[Spec] = [{"name": "severity", "value": 0, "bind": slider}]
    params.append({"name": "shown", "value": options[0]} | ({"bind": shown} if compared else {}))
    minus = "isValid(datum.values[severity]) && isValid(datum.reference[severity])"
    value = (
        f"{differs} ? ({minus} ? datum.values[severity] - datum.reference[severity] : null) : datum.values[severity]"
        if compared
        else "datum.values[severity]"
    )
    # Text is black on bright cells and white on dark ones. The ends of the diverging scheme are dark.
    bright = f"{differs} ? abs(datum.value) < {0.6 * gap:.4g} : datum.value > {(low + high) / 2:.4g}"
    colour = {
        "field": "value",
        "type": "quantitative",
        "scale": {
            "scheme": {"expr": f"{differs} ? 'blueorange' : 'viridis'"},
            "reverse": {"expr": differs},
            "domain": {"expr": f"{differs} ? [{-gap}, {gap}] : [{low}, {high}]"},
        },
        "legend": {
            "title": None,
            "orient": "top",
            "direction": "horizontal",
            "gradientLength": 160,
            "gradientThickness": 10,
        },
    }
    order = list(dict.fromkeys(row["corruption"] for row in rows))
    return {
        "height": height,
        "title": {
            "text": {"expr": f"({titles})[severity] + ({differs} ? ', difference in points' : ', accuracy in %')"}
        },
        "data": {"values": rows},
        "params": params,
        "transform": [{"calculate": value, "as": "value"}],
        "encoding": {
            "x": {
                "field": "corruption",
                "type": "nominal",
                "sort": order,
                "axis": {"title": None, "labelAngle": -50, "labelAlign": "right", "domain": False, "ticks": False},
            },
            "y": {
                "field": "variant",
                "type": "nominal",
                "sort": list(dict.fromkeys(row["variant"] for row in rows)),
                "axis": {"title": None, "domain": False, "ticks": False},
            },
            "tooltip": [
                *tooltip("variant", "corruption"),
                {"field": "value", "type": "quantitative", "format": ".1f"},
            ],
        },
        "layer": [
            {"mark": {"type": "rect"}, "encoding": {"color": colour}},
            {
                "mark": {"type": "text", "fontSize": 9.5, "color": {"expr": f"({bright}) ? 'black' : 'white'"}},
                "encoding": {
                    "text": {"field": "value", "type": "quantitative", "format": ".0f"},
                    "opacity": {"value": {"expr": f"width > {19 * len(order)} ? 1 : 0"}},
                },
            },
        ],
        "config": {"scale": {"bandPaddingInner": 0.04}},
    }
