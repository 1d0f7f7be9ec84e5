"""Training loss and accuracy by epoch."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, brief, chart, panels, seen
from normbench.results.charts.over_time import chosen_epochs, is_failed, panel
from normbench.results.charts.scales import logarithmic
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

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
    failed = is_failed(history, failures)
    each = []
    for column, (title, factor) in QUANTITIES.items():
        log = column == "loss" and logarithmic(history[column])
        each.append(panel(column, title, history, failed, "epoch", epochs, look, factor, log))
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
