"""Accuracy by variant and corruption, as a table of coloured cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.results.drawing import PAPER, new_figure
from normbench.results.tables.table import Row

GAP = 0.25  # distance of the first and the last row from the corruptions, in rows


def heatmap(rows: list[Row], grid: pd.DataFrame, width: float) -> Figure:
    """Draws accuracy on clean images, on each corruption (mean over severities) and on average; one column per variant.

    rows: of the leaderboard, with finished runs. grid: corruptions.csv of the same task. width: at least, in inches.
    """
    names, variants = list(dict.fromkeys(grid["corruption"])), [row["variant"] for row in rows]
    means = grid.set_index(["corruption", "variant"])["mean"]
    values = [[row["clean_accuracy"] for row in rows]]
    values += [[means[name, variant] for variant in variants] for name in names]
    values += [[row["corruption_accuracy"] for row in rows]]
    percent = 100 * np.array(values, dtype=float)

    figure, axes = new_figure(max(width, 1.6 + 0.44 * len(variants)), 1.3 + 0.205 * len(percent))
    tops = np.array([0, *(1 + GAP + np.arange(len(names))), 1 + 2 * GAP + len(names)])
    for top, line in zip(tops, percent, strict=True):
        _draw_row(axes, top, line, percent.min(), percent.max())
    axes.set_yticks(tops + 0.5, ["clean", *(name.replace("_", " ") for name in names), "mean corruption"])
    axes.set_xticks(np.arange(len(variants)) + 0.5, variants, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_row(axes: Axes, top: float, values: np.ndarray, low: float, high: float) -> None:
    """Draws a row of cells of unit size below `top`, each with its value; colours span `low` to `high`."""
    axes.pcolormesh(
        np.arange(len(values) + 1),
        [top, top + 1],
        values[None],
        cmap="viridis",
        vmin=low,
        vmax=high,
        edgecolors=PAPER,
        linewidth=1.0,
    )
    for column, value in enumerate(values):
        red, green, blue, _ = colormaps["viridis"]((value - low) / max(high - low, 1e-9))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = axes.text(
            column + 0.5,
            top + 0.53,
            f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=8.5,
            color="#ffffff" if dark else "#000000",
        )
        text.set_in_layout(False)  # It lies within the axes, so the layout need not measure it.
