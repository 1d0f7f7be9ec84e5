"""How far upper bounds on the norms of convolutions are above the norms, in order of depth."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels
from normbench.results.charts.layers import merged
from normbench.results.charts.lines import lines, up
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

# The bound -> the norm that it is compared with, and the title of the panel.
RATIOS = {
    "fantastic_four": ("zero_padded", "Fantastic Four / norm"),
    "grid": ("zero_padded", "grid with Riesz / norm"),
    "certificate": ("zero_padded", "bound of certificates / norm"),
    "gram": ("circular", "Gram / circular norm"),
}


def bound_chart(bounds: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws a panel for each of four bounds: its ratio to the norm of every convolution.

    bounds: the rows of a task in bounds.csv. names: the variants in the order of the legend.
    """
    bounds = bounds[(bounds["zero_padded"] > 0) & (bounds["circular"] > 0)]
    drawn = [name for name in names if name in set(bounds["variant"])]
    if not drawn:
        return None
    order = merged(own["layer"] for _, own in bounds.groupby("variant", sort=False))
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    x = {"field": "layer", "type": "nominal", "sort": order, "scale": {"domain": order, "type": "point"}}
    x["axis"] = {"title": None, "labelAngle": -40, "labelOverlap": True, "labelLimit": 130}
    each = []
    for bound, (norm, title) in RATIOS.items():
        rows: list[Spec] = [
            {"variant": row["variant"], "layer": row["layer"], "value": brief(row[bound] / row[norm])}
            for row in bounds.to_dict("records")
        ]
        values = [row["value"] for row in rows]
        each.append(lines(rows, x, up(values, "value", title), look, tooltip("variant", "layer", "value"), bound))
    ahead = int((bounds["tightest"] == "grid").sum())
    return chart(
        "bounds",
        "Bounds on convolutions",
        f"Upper bounds over the norms of {counted(len(order), 'convolution')} of {counted(len(drawn), 'variant')}; the "
        f"grid with Riesz is tighter than the four bounds in {ahead} of {len(bounds)}.",
        "Mean over seeds. The norm is that with zero padding at the layer's own size, by power iteration from below; "
        "Gram iteration bounds the norm with circular padding alone, and is compared with that. A strided convolution "
        "has the bounds of its polyphase kernel.",
        panels(each, 2, params=[highlighter(*RATIOS)]),
    )
