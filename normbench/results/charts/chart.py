"""A chart: a Vega-Lite specification with its data, and the same chart as a static SVG.

The page shows the SVG, and where scripts run replaces it by the interactive chart. Both need no network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from normbench.results.charts.look import INK
from normbench.results.charts.picture import FONT, VEGA_LITE, svg

Spec = dict[str, Any]

WIDTH, HEIGHT = 640, 320  # of the static picture, and of the plotting area where nothing else decides it; pixels
SIDES = 64  # what an axis of numbers with its title takes of the width of a panel
NARROWEST = 140  # width of a panel
MUTED = {"opacity": 0.55}

CONFIG: Spec = {
    "aria": False,  # the page gives the alternative text of the whole chart
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "domainOpacity": 0.5,
        "tickOpacity": 0.5,
        "gridOpacity": 0.13,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 200,
        "titlePadding": 8,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11, "labelLimit": 200},
    "title": {"color": INK, "fontSize": 11, "fontWeight": "bold", "anchor": "start", "offset": 6},
    "text": {"color": INK, "fontSize": 10.5},
    "rule": {"color": INK},
}


@dataclass(frozen=True)
class Chart:
    """A chart of the report.

    key: unique within a task. alt: one sentence that says what the chart shows, with its main numbers. note: how to
    read it. spec: the Vega-Lite specification, as wide as its container, or with panels that `fit.js` fits to it.
    """

    key: str
    title: str
    alt: str
    note: str
    spec: Spec

    @functools.cached_property
    def svg(self) -> Markup:
        """The same chart for pages without scripts, in colours that suit light and dark pages, with ids of its own."""
        return svg(self.spec if "concat" in self.spec else self.spec | {"width": WIDTH}, self.alt)


def chart(key: str, title: str, alt: str, note: str, spec: Spec) -> Chart:
    """Returns a chart. spec: one view, to which the width is added, or a `concat` of panels with their `columns`."""
    whole = {"$schema": f"https://vega.github.io/schema/vega-lite/v{VEGA_LITE.split('.')[0]}.json", **spec}
    whole["config"] = CONFIG | spec.get("config", {})
    whole["params"] = [{"name": "wide", "value": WIDTH}, *spec.get("params", [])]  # `fit.js` sets it
    if "concat" not in spec:
        whole |= {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    return Chart(key, title, alt, note, whole)


def panels(each: list[Spec], columns: int, sides: int = SIDES, params: Sequence[Spec] = ()) -> Spec:
    """Returns the specification of a chart of several panels, `columns` side by side, each with its own scales.

    sides: what the labels and the title of the vertical axis take of the width of a panel, in pixels.
    """
    columns = min(columns, len(each))
    sized = [{"width": max(NARROWEST, WIDTH // columns - sides), **panel} for panel in each]
    return {"concat": sized, "columns": columns, "spacing": 18, "usermeta": {"sides": sides}, "params": list(params)}


def seen(value: Any, decimals: int = 2) -> float | None:
    """Returns a number as far as a chart can show it; None for a missing one."""
    return None if value is None or not math.isfinite(value) else round(float(value), decimals)


def brief(value: Any, digits: int = 4) -> float | None:
    """Returns a number of any size with a few significant digits; None for a missing one."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def sentence(text: str) -> str:
    """Returns a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]
