"""FID of the runs of a GAN task."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart
from normbench.results.charts.scales import logarithmic
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding
from normbench.results.words import counted

ROW = 26  # height of a row in pixels


def fid_chart(runs: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws a row for each variant with a point for each run and a line at their mean. runs: the rows of a task."""
    shown = runs[runs["fid"].notna()]
    drawn = [name for name in names if name in set(shown["variant"])]
    if not drawn:
        return None
    rows = [
        {"variant": row["variant"], "seed": row["seed"], "fid": brief(row["fid"])} for row in shown.to_dict("records")
    ]
    means = shown.groupby("variant")["fid"].mean()
    low, high = means.idxmin(), means.idxmax()
    return chart(
        "fid",
        "FID by run",
        f"FID of {counted(len(rows), 'run')} of {counted(len(drawn), 'variant')}: the means lie from "
        f"{brief(means[low]):g} ({low}) to {brief(means[high]):g} ({high}).",
        "Lower is better. A point a run, and a line at the mean of a variant.",
        _spec(rows, [{"variant": name, "mean": brief(means[name])} for name in drawn], drawn, looks),
    )


def _spec(rows: list[Spec], means: list[Spec], names: list[str], looks: Looks) -> Spec:
    scale = {"type": "log"} if logarithmic(row["fid"] for row in rows) else {"zero": False}
    x = {"field": "fid", "type": "quantitative", "title": "FID", "scale": scale | {"padding": 10, "nice": False}}
    x["axis"] = {"tickCount": 6}
    y = {"field": "variant", "type": "nominal", "sort": names, "scale": {"domain": names}}
    y["axis"] = {"title": None, "domain": False, "ticks": False}
    look = encoding(names, looks, "color", "shape", legend=False)
    return {
        "height": ROW * len(names),
        "encoding": {"y": y},
        "layer": [
            {
                "data": {"values": means},
                "mark": {"type": "tick", "thickness": 2, "size": 18},
                "encoding": {"x": x | {"field": "mean"}, "color": look["color"]},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8},
                "encoding": {"x": x, "tooltip": tooltip("variant", "seed", fid="FID")} | look,
            },
        ],
    }
