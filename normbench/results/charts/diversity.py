"""How much the samples of a GAN differ from each other, by iteration."""

from __future__ import annotations

import pandas as pd

from normbench.gan.recipe import COLLAPSED
from normbench.results.charts.chart import MUTED, Chart, Spec, chart, panels
from normbench.results.charts.over_time import chosen_times, ends, is_failed, panel
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted


def diversity_chart(
    history: pd.DataFrame, failures: set[tuple[str, int]], names: list[str], looks: Looks
) -> Chart | None:
    """Draws the mean over the finished runs of a variant, with a band, and the diversity below which a run collapsed.

    history: the rows of a task in gan_curves.csv. failures, names: as for `curve_chart`.
    """
    history = history[history["diversity"].notna()]
    drawn = [name for name in names if name in set(history["variant"])]
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    failed, times = is_failed(history, failures), chosen_times(history["iteration"])
    threshold = _threshold(times[0], times[-1])
    shown = panel("diversity", "diversity", history, failed, "iteration", times, look, below=threshold)
    last = history[~failed & (history["iteration"] == times[-1])].groupby("variant")["diversity"].mean()
    return chart(
        "diversity",
        "Diversity of samples by iteration",
        f"Diversity of the samples of {counted(len(drawn), 'variant')} over {counted(times[-1], 'iteration')}: "
        f"{ends(last)}.",
        "The median distance of a sample to its nearest neighbour among 64, over that of as many real images: about 1 "
        f"if samples differ as those do. A run that stays below the line at {COLLAPSED:g} to its end has collapsed. "
        "Mean over the finished runs of a variant; band: from the lowest to the highest run. A thin line that ends in "
        "a cross is a run that diverged or collapsed.",
        panels([shown], 1, params=[highlighter("diversity")]),
    )


def _threshold(first: int, last: int) -> list[Spec]:
    """Returns the layers of the line at the threshold and of its name, from the first to the last iteration."""
    ends = [{"iteration": first, "value": COLLAPSED}, {"iteration": last, "value": COLLAPSED}]
    line = {"type": "line", "color": "currentColor", "strokeDash": [4, 3], "strokeWidth": 1} | MUTED
    name = {"type": "text", "text": f"collapsed below {COLLAPSED:g}", "align": "right", "baseline": "bottom", "dy": -3}
    return [{"data": {"values": ends}, "mark": line}, {"data": {"values": ends[1:]}, "mark": name}]
