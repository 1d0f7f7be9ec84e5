"""Plots of the norms of layers and of feature maps by depth: one line for each variant, in several panels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from normbench.results.drawing import HEIGHT, PAPER, WIDTH, Look, plain_labels

Looks = dict[str, Look]  # by variant, in the order of the legend

WHEN = {"initial": "at initialization", "trained": "after training"}
# Column of features.csv -> its band.
BANDS = {
    "energy_constant": "mean of the map",
    "energy_low": "low, to 1/6 cycle a pixel",
    "energy_middle": "middle, to 1/3 cycle a pixel",
    "energy_high": "high, above 1/3 cycle a pixel",
}
MOST_NAMES = 24  # most names of layers below an axis of half the page's width; with more layers, some have no name
TALL = HEIGHT + 2.0


def layer_plot(layers: pd.DataFrame, looks: Looks, width: float) -> Figure:
    """Draws the upper bound on the norm of every layer and, in a second panel, the lower estimate."""
    names = merged(table["layer"] for _, table in layers.groupby("variant"))
    figure = Figure(figsize=(width, TALL), layout="constrained")
    panels = figure.subplots(2, 1, squeeze=False, sharex=True, sharey=True)
    for axes, column in zip(panels[:, 0], ("bound", "estimate"), strict=True):
        for variant, look in looks.items():
            own = layers[layers["variant"] == variant]
            values = own.set_index("layer")[column].reindex(names).to_numpy()
            line(axes, np.arange(len(names)), values, variant, look)
    panels[0, 0].set_ylabel("upper bound on norm")
    panels[1, 0].set_ylabel("lower estimate of norm")
    fit_axis(panels[0, 0], layers[["bound", "estimate"]].to_numpy())
    step = -(-len(names) // round(MOST_NAMES * width / WIDTH))
    ticks = np.arange(0, len(names), step)
    panels[1, 0].set_xticks(ticks, names[::step], rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
    legend(figure, looks, width)
    return figure


def feature_plot(features: pd.DataFrame, looks: Looks, width: float) -> Figure:
    """Draws the root mean square and the largest value of each block's output, before and after training."""
    figure = Figure(figsize=(width, TALL), layout="constrained")
    panels = figure.subplots(2, 2, squeeze=False, sharex=True, sharey="row")
    for row, (column, name) in enumerate({"rms": "root mean square", "max": "largest value"}.items()):
        for axes, when in zip(panels[row], WHEN, strict=True):
            for variant, look in looks.items():
                own = features[(features["variant"] == variant) & (features["when"] == when)]
                line(axes, own["block"].to_numpy(), own[column].to_numpy(), variant, look)
        panels[row, 0].set_ylabel(name)
        fit_axis(panels[row, 0], features[column].to_numpy())
    for axes, title in zip(panels[0], WHEN.values(), strict=True):
        axes.set_title(title)
    label_blocks(panels)
    legend(figure, looks, width)
    return figure


def energy_plot(features: pd.DataFrame, looks: Looks) -> Figure:
    """Draws the share of spectral energy in each frequency band by block, before and after training.

    The figure is as wide as the page. If no variant has energy in a band at some block, the maps there are too small
    for such frequencies, and the block has no marks.
    """
    width = 2 * WIDTH
    figure = Figure(figsize=(width, TALL), layout="constrained")
    panels = figure.subplots(2, len(BANDS), squeeze=False, sharex=True, sharey="col")
    for column, (band, name) in enumerate(BANDS.items()):
        exist = features.groupby("block")[band].transform("max") > 0
        for axes, when in zip(panels[:, column], WHEN, strict=True):
            for variant, look in looks.items():
                own = features[(features["variant"] == variant) & (features["when"] == when) & exist]
                line(axes, own["block"].to_numpy(), 100 * own[band].to_numpy(), variant, look)
        panels[0, column].set_title(name)
    for axes, name in zip(panels[:, 0], WHEN.values(), strict=True):
        axes.set_ylabel(f"energy {name} (%)")
    label_blocks(panels)
    legend(figure, looks, width)
    return figure


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


def line(axes: Axes, x: np.ndarray, y: np.ndarray, variant: str, look: Look) -> None:
    """Draws a variant's values by depth, if it has any."""
    if np.isnan(y).all():
        return
    size = look.size if len(x) <= MOST_NAMES else 0.6 * look.size
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.3,
        marker=look.marker,
        markersize=0.8 * size,
        markeredgecolor=PAPER,
        markeredgewidth=0.5,
        label=variant,
    )


def fit_axis(axes: Axes, values: np.ndarray) -> None:
    """Makes the y axis logarithmic if all values are positive and the largest is at least 5 times the smallest."""
    known = values[~np.isnan(values)]
    if not len(known) or known.min() <= 0 or known.max() < 5 * known.min():
        return
    axes.set_yscale("log")
    plain_labels(axes.yaxis)
    if known.max() < 1000 * known.min():
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def label_blocks(panels: np.ndarray) -> None:
    """Labels the x axes of the lowest panels with block numbers."""
    for axes in panels[-1]:
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend(figure: Figure, looks: Looks, width: float) -> None:
    """Adds a legend of the variants that have a line in any panel, in their order."""
    drawn: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    kept = [variant for variant in looks if variant in drawn]
    figure.legend([drawn[variant] for variant in kept], kept, loc="outside lower center", ncols=int(width // 2))
