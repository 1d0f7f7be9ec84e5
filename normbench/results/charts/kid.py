"""The KID of the samples of a GAN by iteration."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, chart, panels
from normbench.results.charts.over_time import chosen_times, ends, is_failed, panel
from normbench.results.charts.scales import logarithmic
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

KIDS = {
    "classifier_kid": "KID \N{MULTIPLICATION SIGN}10³",
    "inception_kid": "KID \N{MULTIPLICATION SIGN}10³, Inception",
}
FACTOR = 1000


def kid_chart(history: pd.DataFrame, failures: set[tuple[str, int]], names: list[str], looks: Looks) -> Chart | None:
    """Draws the mean over the finished runs of a variant, with a band, in a panel for each network of the features.

    history: the rows of a task in gan_curves.csv, which has a column only where a run has the KID. failures, names: as
    for `curve_chart`.
    """
    known = [column for column in KIDS if column in history and history[column].notna().any()]
    history = history[history[known].notna().all(axis=1)] if known else history[:0]
    drawn = [name for name in names if name in set(history["variant"])]
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    failed, times = is_failed(history, failures), chosen_times(history["iteration"])
    each = [
        panel(name, KIDS[name], history, failed, "iteration", times, look, FACTOR, logarithmic(history[name]))
        for name in known
    ]
    last = history[~failed & (history["iteration"] == times[-1])].groupby("variant")[known[0]].mean()
    return chart(
        "kid",
        "KID by iteration",
        f"KID of the samples of {counted(len(drawn), 'variant')} over {counted(times[-1], 'iteration')}, times 1000: "
        f"{ends(FACTOR * last)}.",
        "The KID of 256 samples of the same noise at each time, lower is better: it has no bias, so that a few samples "
        "give its value up to their spread, where a FID would be far too high. The KID in the tables is that of many "
        "other samples at the end. Mean over the finished runs of a variant; band: from the lowest to the highest run.",
        panels(each, len(each), params=[highlighter(*known)]),
    )
