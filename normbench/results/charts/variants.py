"""How charts tell variants apart: colour, marker and line, one legend of all, and the legend as a highlighter."""

from __future__ import annotations

from collections.abc import Iterable

from normbench.results.charts.chart import Spec
from normbench.results.charts.labels import text_width
from normbench.results.charts.look import Look

Looks = dict[str, Look]  # by variant

LEGEND_FONT = 11


def encoding(names: Iterable[str], looks: Looks, *channels: str, legend: bool = True) -> Spec:
    """Returns the encodings of the field `variant` by some of `color`, `shape` and `strokeDash`, with one legend.

    names: the variants of the chart, in the order of the legend.
    """
    drawn = list(names)
    ranges: Spec = {
        "color": [looks[name].colour for name in drawn],
        "shape": [looks[name].shape for name in drawn],
        "strokeDash": [list(looks[name].dash) for name in drawn],
    }
    entry = round(40 + max((text_width(name, LEGEND_FONT) for name in drawn), default=0))
    shown = {
        "title": None,
        "orient": "bottom",
        "columns": {"expr": f"max(1, floor(wide / {min(entry, 240)}))"},
        "symbolLimit": 0,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
    }
    return {
        channel: {
            "field": "variant",
            "type": "nominal",
            "scale": {"domain": drawn, "range": ranges[channel]},
            "legend": shown if legend else None,
        }
        for channel in channels
    }


def plain_legend(entries: int) -> Spec:
    """Returns a legend of a few short entries, in as many columns as have room."""
    return {"title": None, "orient": "bottom", "columns": {"expr": f"max(1, min({entries}, floor(wide / 160)))"}}


def name_width(names: Iterable[str]) -> int:
    """Returns the width in pixels that names take as the labels of rows, with what is beside them."""
    return round(24 + min(200, max(text_width(name, LEGEND_FONT) for name in names)))


def highlighter(*views: str) -> Spec:
    """Returns the parameter `pick`: a click on a name in the legend fades the other variants; shift adds a name."""
    return {
        "name": "pick",
        "select": {"type": "point", "fields": ["variant"]},
        "bind": "legend",
        "views": list(views),
    }


def faded(opacity: float) -> Spec:
    """Returns an opacity that is low while other variants are highlighted."""
    return {"condition": {"param": "pick", "value": opacity}, "value": 0.1 * opacity}
