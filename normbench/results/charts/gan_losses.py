"""Losses of both networks of a GAN by iteration."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, brief, chart, panels
from normbench.results.charts.over_time import chosen_times, is_failed, panel
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

LOSSES = {"discriminator_loss": "loss of the discriminator", "generator_loss": "loss of the generator"}


def gan_loss_chart(
    history: pd.DataFrame, failures: set[tuple[str, int]], names: list[str], looks: Looks
) -> Chart | None:
    """Draws the mean over the finished runs of a variant, with a band from the lowest to the highest.

    history: the rows of a task in gan_curves.csv. failures, names: as for `curve_chart`.
    """
    drawn = [name for name in names if name in set(history["variant"])]
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    failed, times = is_failed(history, failures), chosen_times(history["iteration"])
    each = [panel(column, title, history, failed, "iteration", times, look) for column, title in LOSSES.items()]
    last = history[~failed & (history["iteration"] == times[-1])].groupby("variant")[list(LOSSES)].mean()
    ends = "; none was finished"
    if len(last):
        ends = "; at the end " + " and ".join(
            f"the {title} lies from {brief(last[column].min(), 3):g} to {brief(last[column].max(), 3):g}"
            for column, title in LOSSES.items()
        )
    return chart(
        "gan_losses",
        "Losses by iteration",
        f"Losses of the two networks of {counted(len(drawn), 'variant')} over {counted(times[-1], 'iteration')}{ends}.",
        "Mean losses since the point before, with penalties where there are any, mean over the finished runs of a "
        "variant; band: from the lowest to the highest run. They do not measure how good samples are. A thin line that "
        "ends in a cross is a run that diverged or collapsed.",
        panels(each, 2, params=[highlighter(*LOSSES)]),
    )
