"""Norms of layers in order of depth."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels
from normbench.results.charts.lines import lines, up
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

NORMS = {"bound": "upper bound on norm", "estimate": "lower estimate of norm"}


def layer_chart(layers: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws the upper bound on the norm of every layer and, in a second panel, the lower estimate.

    layers: the rows of a task in layers.csv. names: the variants in the order of the legend.
    """
    layers = layers[layers[list(NORMS)].notna().any(axis=1)]
    drawn = [name for name in names if name in set(layers["variant"])]
    if not drawn:
        return None
    order = merged(own["layer"] for _, own in layers.groupby("variant", sort=False))
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    x = {"field": "layer", "type": "nominal", "sort": order, "scale": {"domain": order, "type": "point"}}
    x["axis"] = {"title": None, "labelAngle": -40, "labelOverlap": True, "labelLimit": 130}
    values = [value for column in NORMS for value in layers[column].dropna()]
    each = []
    for column, title in NORMS.items():
        rows: list[Spec] = [
            {"variant": row["variant"], "layer": row["layer"], "value": brief(row[column])}
            for row in layers[layers[column].notna()].to_dict("records")
        ]
        if rows:
            each.append(lines(rows, x, up(values, "value", title), look, tooltip("variant", "layer", "value"), column))
    largest = layers.loc[layers["bound"].idxmax()] if layers["bound"].notna().any() else None
    most = (
        f"; the largest bound is {brief(largest['bound'], 3):g} ({largest['variant']})" if largest is not None else ""
    )
    return chart(
        "layers",
        "Norms of layers",
        f"Norms of {counted(len(order), 'layer')} of {counted(len(drawn), 'variant')} in order of depth{most}.",
        "In the 2-norm, with the norm behind a convolution folded into it; mean over seeds. The upper bound is what no "
        "input exceeds; the lower estimate is that of a power iteration with zero padding at the layer's own size. A "
        "layer without the one or the other has no mark there.",
        panels(each, 1, params=[highlighter(*(panel["layer"][0]["name"] for panel in each))]),
    )


def merged(lists: Iterable[pd.Series]) -> list[str]:
    """Returns every name once, in an order that agrees with the order of each list as far as possible."""
    names: list[str] = []
    for own in sorted(lists, key=len, reverse=True):
        place = 0
        for name in own:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return names
