"""Scatter plots: one marker for each variant, with its name beside it."""

from __future__ import annotations

import itertools
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from matplotlib.transforms import Bbox

from normbench.results.drawing import HEIGHT, MUTED, PAPER, WIDTH, Look, new_figure, plain_labels
from normbench.results.tables.table import Row

# The positions around a point at which its name is tried: distances in points, and angles in degrees.
DISTANCES, ANGLES = (8, 18, 30, 44), (0, 180, 90, 270, 30, 150, 330, 210)
LABEL_SIZE = 8.5  # points
LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}


def speed_plot(rows: list[Row], looks: dict[str, Look]) -> Figure:
    """Draws clean accuracy against images per second. rows: of the leaderboard, with both numbers."""
    figure, axes = new_figure(WIDTH, HEIGHT)
    speeds = [row["images_per_second"] for row in rows]
    points = [(row["variant"], x, 100 * row["clean_accuracy"]) for row, x in zip(rows, speeds, strict=True)]
    bars = [(0.0, 100 * row["clean_accuracy_std"]) for row in rows]
    if max(speeds) > 10 * min(speeds):
        axes.set_xscale("log")
        plain_labels(axes.xaxis)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("training speed (images/s)")
    axes.set_ylabel("clean accuracy (%)")
    scatter(figure, axes, points, bars, looks)
    return figure


def robustness_plot(rows: list[Row], looks: dict[str, Look]) -> Figure:
    """Draws corruption accuracy against clean accuracy. rows: of the leaderboard, with both numbers."""
    figure, axes = new_figure(WIDTH, HEIGHT)
    points = [(row["variant"], 100 * row["clean_accuracy"], 100 * row["corruption_accuracy"]) for row in rows]
    bars = [(100 * row["clean_accuracy_std"], 100 * row["corruption_accuracy_std"]) for row in rows]
    axes.set_xlabel("clean accuracy (%)")
    axes.set_ylabel("corruption accuracy (%)")
    scatter(figure, axes, points, bars, looks)
    return figure


def scatter(
    figure: Figure,
    axes: Axes,
    points: list[tuple[str, float, float]],
    bars: list[tuple[float, float]],
    looks: dict[str, Look],
) -> None:
    """Draws a named marker at each (variant, x, y) of `points`, with error bars.

    bars: for each point, the half-lengths (x, y) of its error bars; NaN for none.
    """
    axes.margins(0.12)
    for (name, x, y), (dx, dy) in zip(points, np.nan_to_num(bars), strict=True):
        look = looks[name]
        axes.errorbar(
            x,
            y,
            xerr=dx or None,
            yerr=dy or None,
            color=look.colour,
            marker=look.marker,
            markersize=look.size,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
            elinewidth=1.1,
        )
    figure.draw_without_rendering()  # This fixes the layout; without a layout engine it stays as it is.
    figure.set_layout_engine("none")
    label(figure, axes, points, np.nan_to_num(bars))


def label(figure: Figure, axes: Axes, points: list[tuple[str, float, float]], bars: np.ndarray) -> None:
    """Writes each point's name at the nearest free position around it, with a line to the point unless it is adjacent.

    A name without a free position is left out; the table shows its marker too. Lengths are in pixels, which equal
    points at 72 dpi.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [box for (_, x, y), bar in zip(points, bars, strict=True) for box in _drawn(axes, x, y, *bar)]
    for name, x, y in points:
        anchor = axes.transData.transform((x, y))
        sample = axes.text(0, 0, name, fontsize=LABEL_SIZE)
        size = np.array(sample.get_window_extent(renderer).size)
        sample.remove()
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            way = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))]).round(9)
            boxes = _needed(anchor, size, distance, way)
            if _inside(boxes[0], frame) and not any(box.count_overlaps(taken) for box in boxes):
                taken += boxes
                _write(axes, name, (x, y), distance, way)
                break


def _drawn(axes: Axes, x: float, y: float, dx: float, dy: float) -> list[Bbox]:
    """Returns the boxes that a marker and its error bars cover."""
    left, low, right, high = axes.transData.transform([(x - dx, y - dy), (x + dx, y + dy)]).ravel()
    across, up = (left + right) / 2, (low + high) / 2
    marker = Bbox([[across - 4, up - 4], [across + 4, up + 4]])
    return [marker, Bbox([[left, up - 1], [right, up + 1]]), Bbox([[across - 1, low], [across + 1, high]])]


def _needed(anchor: np.ndarray, size: np.ndarray, distance: float, way: np.ndarray) -> list[Bbox]:
    """Returns the boxes that a name needs: its own, and small ones along the line from the point to the name.

    anchor: (2,), the position of the point. size: (2,), of the text. distance: of the name from the point. way: (2,),
    the unit vector from the point to the name.
    """
    corner = anchor + distance * way - size * (1 - np.sign(way)) / 2
    spots = anchor + np.outer(np.arange(8, distance - 3, 4), way)
    return [Bbox([corner, corner + size]), *(Bbox([spot - 1, spot + 1]) for spot in spots)]


def _inside(box: Bbox, frame: Bbox) -> bool:
    """Whether a box lies within a frame."""
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _write(axes: Axes, name: str, point: tuple[float, float], distance: float, way: np.ndarray) -> None:
    axes.annotate(
        name,
        point,
        tuple(distance * way),
        textcoords="offset points",
        ha=("right", "center", "left")[int(np.sign(way[0])) + 1],
        va=("top", "center", "bottom")[int(np.sign(way[1])) + 1],
        fontsize=LABEL_SIZE,
        arrowprops=LEADER if distance > DISTANCES[0] else None,
    )
