"""Training loss by epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normbench.results.drawing import HEIGHT, PAPER, Look, new_figure, plain_labels


def loss_plot(history: pd.DataFrame, variants: list[str], epochs: int, looks: dict[str, Look], width: float) -> Figure:
    """Draws the training loss by epoch: the mean over the finished runs, and a band from the lowest to the highest.

    A run that diverged is a thin line of its own that ends in a cross. history: curves.csv of a task. epochs: of a
    finished run. width: inches.
    """
    figure, axes = new_figure(width, HEIGHT + 1.2)
    for variant in variants:
        runs = [run for _, run in history[history["variant"] == variant].groupby("seed")]
        whole = [run for run in runs if len(run) == epochs]
        broken = [run for run in runs if len(run) < epochs]
        if whole:
            _draw_mean(axes, [run["loss"].to_numpy() for run in whole], variant, looks[variant])
        for index, run in enumerate(broken):
            named = not whole and index == 0
            _draw_broken(axes, run, f"{variant} (diverged)" if named else None, looks[variant])
    if (history["loss"] > 0).all():
        axes.set_yscale("log")
        plain_labels(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=int(width // 2))
    return figure


def _draw_mean(axes: Axes, losses: list[np.ndarray], variant: str, look: Look) -> None:
    """Draws the mean and the range of the finished runs. losses: (epochs,) of each run."""
    epochs = np.arange(1, len(losses[0]) + 1)
    axes.fill_between(epochs, np.min(losses, 0), np.max(losses, 0), color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(
        epochs,
        np.mean(losses, 0),
        color=look.colour,
        linestyle=look.line,
        linewidth=1.5,
        marker=look.marker,
        markersize=0.8 * look.size,
        markeredgecolor=PAPER,
        markeredgewidth=0.5,
        markevery=max(1, len(epochs) // 6),
        label=variant,
    )


def _draw_broken(axes: Axes, run: pd.DataFrame, name: str | None, look: Look) -> None:
    """Draws a run that diverged. name: its label in the legend, or None."""
    axes.plot(run["epoch"], run["loss"], color=look.colour, linestyle=look.line, linewidth=0.8, label=name)
    axes.plot(run["epoch"].iloc[-1], run["loss"].iloc[-1], "x", color=look.colour, markersize=6)
