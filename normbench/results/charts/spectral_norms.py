"""Spectral norms of the discriminator's weights by iteration: the largest of them, or each layer's."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, chart, panels
from normbench.results.charts.layers import merged
from normbench.results.charts.over_time import chosen_times, ends, is_failed, panel
from normbench.results.charts.scales import logarithmic
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

LARGEST = "largest of all layers"


def spectral_norm_chart(
    history: pd.DataFrame, norms: pd.DataFrame, failures: set[tuple[str, int]], names: list[str], looks: Looks
) -> Chart | None:
    """Draws the mean over the finished runs of a variant, with a band from the lowest to the highest.

    The reader chooses a layer; at first, and without scripts, it is the largest norm of all. history, norms: the
    rows of a task in gan_curves.csv and gan_norms.csv. failures, names: as for `curve_chart`.
    """
    history = history[history["largest_norm"].notna()]
    drawn = [name for name in names if name in set(history["variant"])]
    if not drawn:
        return None
    times = chosen_times(history["iteration"])
    layers = merged(own["layer"].drop_duplicates() for _, own in norms.groupby("variant", sort=False))
    # Names of layers are in no expression: a layer is chosen by its place, and 0 stands for the largest norm.
    places = {layer: place for place, layer in enumerate(layers, 1)}
    whole = pd.concat(
        [history.assign(layer=0, norm=history["largest_norm"]), norms.assign(layer=norms["layer"].map(places))],
        ignore_index=True,
    )[["variant", "seed", "iteration", "layer", "norm"]]
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    failed, log = is_failed(whole, failures), logarithmic(whole["norm"])
    shown = panel("norm", "spectral norm", whole, failed, "iteration", times, look, log=log, choice="layer")
    done = history[~is_failed(history, failures) & (history["iteration"] == times[-1])]
    return chart(
        "spectral_norms",
        "Spectral norms of the discriminator by iteration",
        f"Largest spectral norm of {counted(len(layers), 'layer')} of the discriminators of "
        f"{counted(len(drawn), 'variant')} over {counted(times[-1], 'iteration')}: "
        f"{ends(done.groupby('variant')['largest_norm'].mean())}.",
        "The largest singular value of each weight as a matrix of out times in·height·width, converged, and not that "
        "of a power iteration. The norm of a convolution is up to √(height·width) times as large, so that their "
        "product is no bound on the network. Mean over the finished runs of a variant; band: from the lowest to the "
        "highest run.",
        panels([shown], 1, params=[_choice(layers), highlighter("norm")]),
    )


def _choice(layers: list[str]) -> Spec:
    """Returns the parameter `layer`, a menu of all layers."""
    options = list(range(len(layers) + 1))
    bound = {"input": "select", "options": options, "labels": [LARGEST, *layers], "name": "Layer: "}
    return {"name": "layer", "value": 0, "bind": bound}
