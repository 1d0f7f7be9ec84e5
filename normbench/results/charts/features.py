"""Feature maps by depth, before and after training: their size, and their energy by spatial frequency."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels, seen
from normbench.results.charts.lines import lines, up
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

WHEN = {"initial": "at initialization", "trained": "after training"}
SIZES = {"rms": "root mean square", "max": "largest value"}
BANDS = {
    "energy_constant": "mean of the map",
    "energy_low": "low, to 1/6 cycle a pixel",
    "energy_middle": "middle, to 1/3 cycle a pixel",
    "energy_high": "high, above 1/3 cycle a pixel",
}
BLOCK: Spec = {
    "field": "block",
    "type": "quantitative",
    "scale": {"zero": False, "nice": False, "padding": 8},
    "axis": {"tickMinStep": 1, "format": "d", "title": "block"},
}


def feature_chart(features: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws the root mean square and the largest value of each block's output.

    features: the rows of a task in features.csv. names: the variants in the order of the legend.
    """
    drawn = _drawn(features, names)
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    each = []
    for column, title in SIZES.items():
        ends = [float(features[column].min()), float(features[column].max())]
        for when, name in WHEN.items():
            rows = _rows(features[features["when"] == when], column)
            y = up(ends, "value", title)
            y["scale"].setdefault("domain", ends)  # the same before and after training
            each.append(_panel(rows, y, look, f"{column}-{when}", name))
    trained = features[features["when"] == "trained"]
    deepest = trained[trained["block"] == trained["block"].max()].dropna(subset="rms").sort_values("rms")
    ends_at = ""
    if len(deepest):
        first, last = deepest.iloc[0], deepest.iloc[-1]
        ends_at = (
            f"; after training the last block's root mean square lies from {brief(first['rms'], 3):g} "
            f"({first['variant']}) to {brief(last['rms'], 3):g} ({last['variant']})"
        )
    return chart(
        "features",
        "Feature maps by depth",
        f"Size of the output of {counted(features['block'].max(), 'block')} of "
        f"{counted(len(drawn), 'variant')}{ends_at}.",
        "Values of each block's output on test images, mean over seeds. At initialization the network is in training "
        "mode, after training in evaluation mode.",
        panels(each, 2, params=[highlighter(*(panel["layer"][0]["name"] for panel in each))]),
    )


def energy_chart(features: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws the share of the energy of each block's output in bands of spatial frequencies.

    A block whose maps are too small for a band has no marks.
    """
    drawn = _drawn(features.dropna(subset=list(BANDS), how="all"), names)
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    each = []
    for band, title in BANDS.items():
        exist = ~features["block"].isin(empty_blocks(features, band))
        ends = [0.0, 100 * float(features[band].max())]
        for when, name in WHEN.items():
            rows = _rows(features[(features["when"] == when) & exist], band, 100)
            y = up(ends, "value", "energy (%)", log=False)
            y["scale"]["domain"] = ends
            each.append(_panel(rows, y, look, f"{band}-{when}", f"{title}, {name}"))
    trained = features[features["when"] == "trained"]
    shares = {band: trained[band].mean() for band in BANDS if trained[band].notna().any()}
    most = f"; after training, {', '.join(_share(band, share) for band, share in shares.items())} on average"
    return chart(
        "energy",
        "Spectral energy of feature maps",
        f"Energy of the feature maps of {counted(len(drawn), 'variant')} in four bands of "
        f"frequencies{most if shares else ''}.",
        "Share of the energy of each block's output in bands of spatial frequencies, a pixel being one of the map; the "
        "four bands sum to 100 %. A map of few pixels has no frequencies in some bands, and no mark there: compare "
        "variants at one block, not blocks.",
        panels(each, 2, params=[highlighter(*(panel["layer"][0]["name"] for panel in each))]),
    )


def empty_blocks(features: pd.DataFrame, band: str) -> list[int]:
    """Returns the blocks where no variant has energy in a band: their maps are too small for such frequencies."""
    if not len(features):
        return []
    most = features.groupby("block")[band].max()
    return list(most.index[~(most > 0)])


def _drawn(features: pd.DataFrame, names: list[str]) -> list[str]:
    known = set(features["variant"])
    return [name for name in names if name in known]


def _rows(features: pd.DataFrame, column: str, factor: float = 1) -> list[Spec]:
    found = features[features[column].notna()].to_dict("records")
    return [
        {"variant": row["variant"], "block": row["block"], "value": brief(factor * row[column], 3)} for row in found
    ]


def _panel(rows: list[Spec], y: Spec, look: Spec, name: str, title: str) -> Spec:
    return lines(rows, BLOCK, y, look, tooltip("variant", "block", "value"), name, title=title)


def _share(band: str, share: float) -> str:
    return f"{BANDS[band].split(',')[0]} {seen(100 * share, 1):g} %"
