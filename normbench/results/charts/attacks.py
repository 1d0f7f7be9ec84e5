"""Accuracy under attacks of growing strength."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import HEIGHT, Chart, Spec, chart, seen
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted

ATTACKS = {
    "attack_clean": "none",
    "attack_fgsm": "FGSM",
    "attack_pgd": "PGD",
    "attack_pgd_long": "long PGD",
    "auto_attack": "AutoAttack",
}


def attack_chart(robustness: pd.DataFrame, runs: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws accuracy by attack, a line for each variant, with a bar of one standard deviation over seeds.

    robustness, runs: the rows of a task in robustness.csv and runs.csv. names: the variants in the order of the legend.
    """
    measured = [column for column in ATTACKS if column in robustness and robustness[column].notna().any()]
    if len(measured) < 2:
        return None
    table = robustness.set_index("variant")
    spread = runs.groupby("variant")[[column for column in measured if column in runs]].std()
    rows: list[Spec] = []
    for name in names:
        for column in measured:
            value = seen(100 * table[column].get(name, float("nan")))
            if value is None:
                continue
            row = {"variant": name, "attack": ATTACKS[column], "value": value}
            deviation = seen(100 * spread[column].get(name, float("nan"))) if column in spread else None
            rows.append(row | ({"low": seen(value - deviation), "high": seen(value + deviation)} if deviation else {}))
    drawn = [name for name in names if any(row["variant"] == name for row in rows)]
    strongest = [row for row in rows if row["attack"] == ATTACKS[measured[-1]]]
    low, high = min(strongest, key=lambda row: row["value"]), max(strongest, key=lambda row: row["value"])
    return chart(
        "attacks",
        "Accuracy under attack",
        f"Accuracy of {counted(len(drawn), 'variant')} under {', '.join(ATTACKS[column] for column in measured)}; "
        f"under {ATTACKS[measured[-1]]} from {low['value']:g} % ({low['variant']}) to {high['value']:g} % "
        f"({high['variant']}).",
        "Attacks grow stronger from left to right, on a drawn subset of the test images. Mean over seeds, with bars of "
        "one standard deviation. A stronger attack that leaves more accuracy than a weaker one has failed.",
        _spec(rows, [ATTACKS[column] for column in measured], drawn, looks),
    )


def _spec(rows: list[Spec], attacks: list[str], drawn: list[str], looks: Looks) -> Spec:
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    shift = {"field": "variant", "type": "nominal", "scale": {"domain": drawn, "paddingOuter": 1}}
    colour = {"color": look["color"], "opacity": faded(1)}
    return {
        "height": HEIGHT,
        "data": {"values": rows},
        "params": [highlighter("lines")],
        "transform": [RANGE],
        "encoding": {
            "x": {
                "field": "attack",
                "type": "nominal",
                "sort": attacks,
                "scale": {"domain": attacks, "type": "band", "padding": 0.3},
                "axis": {"title": "attack", "labelAngle": 0},
            },
            "xOffset": shift,
            "y": {"field": "value", "type": "quantitative", "title": "accuracy (%)", "scale": {"zero": False}},
        },
        "layer": [
            {
                "name": "lines",
                "mark": {"type": "line", "strokeWidth": 1.2},
                "encoding": {"strokeDash": look["strokeDash"], **colour},
            },
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule"},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, **colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55},
                "encoding": {
                    "shape": look["shape"],
                    "tooltip": tooltip("variant", "attack", "value", "range"),
                    **colour,
                },
            },
        ],
    }
