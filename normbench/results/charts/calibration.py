"""Calibration on clean and on corrupted images."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels
from normbench.results.charts.look import COLOURS, SHAPES
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import name_width, plain_legend
from normbench.results.words import counted

ROW = 18  # height of a row in pixels
SCORES = {"ece": ("expected calibration error (%)", 100), "nll": ("negative log-likelihood (nats)", 1)}
IMAGES = {"": "clean images", "corrupted_": "corrupted images"}


def calibration_chart(robustness: pd.DataFrame, names: list[str]) -> Chart | None:
    """Draws a row for each variant with the score on clean and on corrupted images, joined by a line.

    robustness: the rows of a task in robustness.csv. names: the variants from top to bottom.
    """
    each, sentences, order = [], [], []
    table = robustness.set_index("variant").reindex(names)
    for column, (title, factor) in SCORES.items():
        rows: list[Spec] = []
        for prefix, images in IMAGES.items():
            if f"{prefix}{column}" not in table:
                continue
            values = table[f"{prefix}{column}"].dropna()
            rows += [
                {"variant": name, "images": images, "value": brief(factor * values[name])} for name in values.index
            ]
            if len(values):
                low, high = brief(factor * values.min(), 3), brief(factor * values.max(), 3)
                sentences.append(f"{column.upper()} on {images} from {low:g} to {high:g}")
        if rows:
            order += [row["variant"] for row in rows]
            each.append((rows, title))
    if not each:
        return None
    shown = [name for name in names if name in order]
    return chart(
        "calibration",
        "Calibration",
        f"Calibration of {counted(len(shown), 'variant')}: {'; '.join(sentences)}.",
        "Lower is better. Mean over seeds; on corrupted images over all corruptions and severities as well.",
        panels([_panel(rows, title, shown) for rows, title in each], 2, name_width(shown)),
    )


def _panel(rows: list[Spec], title: str, names: list[str]) -> Spec:
    images = list(IMAGES.values())
    look: Spec = {"field": "images", "type": "nominal", "legend": plain_legend(len(images))}
    y = {"field": "variant", "type": "nominal", "sort": names, "scale": {"domain": names}}
    y["axis"] = {"title": None, "grid": True, "domain": False, "ticks": False}
    return {
        "height": ROW * len(names),
        "data": {"values": rows},
        "encoding": {"y": y, "x": {"field": "value", "type": "quantitative", "title": title, "axis": {"tickCount": 6}}},
        "layer": [
            {
                "mark": {"type": "line", "color": "currentColor", "opacity": 0.4},
                "encoding": {"detail": {"field": "variant"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "color": look | {"scale": {"domain": images, "range": list(COLOURS[:2])}},
                    "shape": look | {"scale": {"domain": images, "range": list(SHAPES[:2])}},
                    "tooltip": tooltip("variant", "images", value=title),
                },
            },
        ],
    }
