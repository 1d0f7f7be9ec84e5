"""Panels of lines: one line for each variant, with a marker at each value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from normbench.results.charts.chart import HEIGHT, Spec, brief
from normbench.results.charts.scales import LABEL, logarithmic, reach, ticks
from normbench.results.charts.variants import faded

PANEL_HEIGHT = round(0.72 * HEIGHT)
MOST_MARKERS, SPARSE = 24, 8  # values of a line that have a marker each; the markers of a longer line


def up(values: list[float], field: str, title: str | None, log: bool | None = None) -> Spec:
    """Returns the encoding of the vertical axis, logarithmic if the values ask for it."""
    kind = logarithmic(values) if log is None else log
    axis: Spec = {"title": title, "labelExpr": LABEL}
    if not kind:
        return {"field": field, "type": "quantitative", "scale": {"zero": False}, "axis": axis | {"tickCount": 6}}
    low, high = 10 ** np.array(reach(np.log10(values), 0.04))
    scale = {"type": "log", "domain": [brief(low), brief(high)], "nice": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis | {"values": ticks(low, high, True)}}


def lines(
    rows: list[Spec],
    x: Spec,
    y: Spec,
    look: Spec,
    tooltip: list[Spec],
    name: str,
    below: Sequence[Spec] = (),
    above: Sequence[Spec] = (),
    of_line: Sequence[str] = ("variant",),
    **more: Any,
) -> Spec:
    """Returns a panel.

    rows: its data. name: of the layer that a highlighter needs. below, above: more layers, behind the lines and in
    front of them. of_line: the fields that rows of one line have in common.
    """
    keys = [tuple(row[field] for field in of_line) for row in rows]
    longest = max(Counter(keys).values(), default=0)
    every = 1 if longest <= MOST_MARKERS else -(-longest // SPARSE)
    marked: Counter[tuple[Any, ...]] = Counter()
    for row, key in zip(rows, keys, strict=True):
        row |= {"mark": 1} if marked[key] % every == 0 else {}
        marked[key] += 1
    shown = {key: look[key] for key in ("color", "strokeDash") if key in look}
    layers: list[Spec] = [
        {
            "name": name,
            "mark": {"type": "line", "strokeWidth": 1.5},
            "encoding": shown | {"opacity": faded(1)},
        },
        {
            "transform": [{"filter": "datum.mark"}],
            "mark": {"type": "point", "filled": True, "size": 36},
            "encoding": {key: look[key] for key in ("color", "shape")} | {"opacity": faded(1), "tooltip": tooltip},
        },
    ]
    return {
        "height": PANEL_HEIGHT,
        "data": {"values": rows},
        "encoding": {"x": x, "y": y},
        "layer": [*below, *layers, *above],
        **more,
    }
