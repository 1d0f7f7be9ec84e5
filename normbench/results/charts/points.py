"""The parts of scatter plots: names beside points, lines from a name to its point, and error bars.

A row of the data has `variant`, `x` and `y`, and `sd_x` and `sd_y` where there is a standard deviation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from normbench.results.charts.chart import HEIGHT, MUTED, WIDTH, Spec
from normbench.results.charts.labels import Box, places

# Names are placed for the width of the static picture. In a narrower one, as on a phone, they would lie over each
# other, and the legend alone names the points.
NARROW = 480
PLOT = (WIDTH - 70, HEIGHT)  # the plotting area of the static picture, in which names are placed


def name_points(rows: list[Spec], across: Sequence[float], up: Sequence[float]) -> None:
    """Adds the place of its name to each row that has a free one. across, up: the ends of the axes.

    The names of the first rows are placed first. A line joins the rows with `front`, in the order of `x`.
    """

    def position(x: float, y: float) -> tuple[float, float]:
        share, height = (x - across[0]) / (across[1] - across[0]), (up[1] - y) / (up[1] - up[0])
        return share * PLOT[0], height * PLOT[1]

    points = [position(row["x"], row["y"]) for row in rows]
    bars: list[Box] = []
    for row, (x, y) in zip(rows, points, strict=True):
        left, top = position(row["x"] - row.get("sd_x", 0), row["y"] + row.get("sd_y", 0))
        right, bottom = position(row["x"] + row.get("sd_x", 0), row["y"] - row.get("sd_y", 0))
        bars += [(left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)]
    line = sorted(point for point, row in zip(points, rows, strict=True) if row.get("front"))
    for one, other in itertools.pairwise(line):
        for x, y in np.linspace(one, other, 2 + round(math.dist(one, other) / 4)):
            bars.append((x - 1, y - 1, x + 1, y + 1))
    names = [row["variant"] for row in rows]
    for row, place in zip(rows, places(points, names, bars, PLOT), strict=True):
        if place is not None:
            row |= {"named": 1, "dx": place.dx, "dy": place.dy, "align": place.align, "near": int(place.near)}


def leaders() -> Spec:
    """Returns the layer of the lines from names to points."""
    mark = {"type": "rule", "strokeWidth": 0.6, "x2Offset": {"expr": "datum.dx"}, "y2Offset": {"expr": "datum.dy"}}
    return {
        "transform": [{"filter": f"datum.named && !datum.near && wide >= {NARROW}"}],
        "mark": mark | MUTED,
        "encoding": {"x2": {"field": "x"}, "y2": {"field": "y"}},
    }


def names_of_points() -> Spec:
    """Returns the layer of the names."""
    placed = {"align": {"expr": "datum.align"}, "dx": {"expr": "datum.dx"}, "dy": {"expr": "datum.dy"}}
    return {
        "transform": [{"filter": f"datum.named && wide >= {NARROW}"}],
        "mark": {"type": "text", "baseline": "middle", **placed},
        "encoding": {"text": {"field": "variant"}},
    }


def error_bar(axis: str, colour: Spec, opacity: Spec) -> Spec:
    """Returns the layer of the bars along `x` or `y`, one standard deviation to either side."""
    ends = [
        {"calculate": f"datum.{axis} {sign} datum.sd_{axis}", "as": end} for sign, end in (("-", "low"), ("+", "high"))
    ]
    return {
        "transform": [{"filter": f"isValid(datum.sd_{axis})"}, *ends],
        "mark": {"type": "rule", "strokeWidth": 1.2},
        "encoding": {
            axis: {"field": "low", "type": "quantitative"},
            f"{axis}2": {"field": "high"},
            "color": colour,
            "opacity": opacity,
        },
    }
