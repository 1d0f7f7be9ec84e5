"""Training loss and accuracy by epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels, seen
from normbench.results.charts.lines import lines, up
from normbench.results.charts.scales import logarithmic
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted

MOST_EPOCHS = 60  # of a line; more could not be told apart
QUANTITIES = {"loss": ("training loss", 1), "accuracy": ("training accuracy (%)", 100)}


def curve_chart(history: pd.DataFrame, failures: set[tuple[str, int]], names: list[str], looks: Looks) -> Chart | None:
    """Draws the mean over the finished runs of a variant, with a band from the lowest to the highest.

    Each run that failed is a thin line of its own that ends in a cross. history: the rows of a task in curves.csv.
    failures: variant and seed of the runs that diverged or collapsed. names: the variants in the order of the legend.
    """
    drawn = [name for name in names if name in set(history["variant"])]
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    epochs = chosen_epochs(int(history["epoch"].max()))
    failed = pd.Series(list(zip(history["variant"], history["seed"], strict=True)), history.index).isin(failures)
    each = []
    for column, (title, factor) in QUANTITIES.items():
        whole = _means(history[~failed], column, factor, epochs)
        broken = _broken(history[failed], column, factor, epochs)
        log = column == "loss" and logarithmic(history[column])
        each.append(_panel(column, whole, broken, log, title, look))
    last = (
        history[~failed & (history["epoch"] == history["epoch"].max())].groupby("variant")[["loss", "accuracy"]].mean()
    )
    return chart(
        "curves",
        "Training by epoch",
        f"Training loss and accuracy of {counted(len(drawn), 'variant')} over "
        f"{counted(int(history['epoch'].max()), 'epoch')}{_ends(last)}.",
        "Mean over the finished runs of a variant, the loss with its penalty where it has one; band: from the lowest "
        "to the highest run. A thin line that ends in a cross is a run that diverged or collapsed. Click on names in "
        "the legend to highlight them.",
        panels(each, 2, params=[highlighter(*QUANTITIES)]),
    )


def chosen_epochs(last: int) -> list[int]:
    """Returns the epochs that are drawn: all, or evenly spread ones with the first and the last."""
    return sorted({int(epoch) for epoch in np.linspace(1, last, min(last, MOST_EPOCHS)).round()})


def _means(history: pd.DataFrame, column: str, factor: float, epochs: list[int]) -> list[Spec]:
    rows = []
    for (variant, epoch), values in history[history["epoch"].isin(epochs)].groupby(["variant", "epoch"])[column]:
        row = {"variant": variant, "epoch": epoch, "value": brief(factor * values.mean())}
        if len(values) > 1:
            row |= {"low": brief(factor * values.min()), "high": brief(factor * values.max())}
        rows.append(row)
    return [row for row in rows if row["value"] is not None]


def _broken(history: pd.DataFrame, column: str, factor: float, epochs: list[int]) -> list[Spec]:
    rows: list[Spec] = []
    for (variant, seed), run in history.groupby(["variant", "seed"]):
        last = run["epoch"].max()
        for row in run[run["epoch"].isin([*epochs, last])].to_dict("records"):
            value = brief(factor * row[column])
            if value is not None:
                end = {"end": 1} if row["epoch"] == last else {}
                rows.append({"variant": variant, "seed": seed, "epoch": row["epoch"], "value": value} | end)
    return rows


def _panel(name: str, whole: list[Spec], broken: list[Spec], log: bool, title: str, look: Spec) -> Spec:
    ticks = {"tickMinStep": 1, "format": "d", "title": "epoch"}
    x = {"field": "epoch", "type": "quantitative", "scale": {"zero": False, "nice": False, "padding": 8}, "axis": ticks}
    band = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area"},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": look["color"],
            "opacity": faded(0.15),
        },
    }
    thin: Spec = {
        "data": {"values": broken},
        "encoding": {"color": look["color"], "detail": {"field": "seed"}, "opacity": faded(0.8)},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 0.8}},
            {
                "transform": [{"filter": "datum.end"}],
                "mark": {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "size": 50, "strokeWidth": 1.5},
                "encoding": {"tooltip": tooltip("variant", "seed", "epoch")},
            },
        ],
    }
    y = up([row["value"] for row in [*whole, *broken]], "value", title, log)
    return lines(
        whole,
        x,
        y,
        look,
        tooltip("variant", "epoch", "value", "range"),
        name,
        below=[band],
        above=[thin] if broken else [],
        transform=[RANGE],
    )


def _ends(last: pd.DataFrame) -> str:
    """Returns the part of the sentence about the last epoch. last: the means by variant."""
    last = last.dropna()
    if last.empty:
        return ", none of which was finished"
    low, high = last["loss"].idxmin(), last["loss"].idxmax()
    best = seen(100 * last["accuracy"].max())
    return (
        f"; at the end the loss lies from {brief(last['loss'][low], 3):g} ({low}) to {brief(last['loss'][high], 3):g} "
        f"({high}), and the accuracy is at most {best:g} %"
    )
