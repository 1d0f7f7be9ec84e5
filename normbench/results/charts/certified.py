"""Certified accuracy over the radius, and accuracy under attack within it."""

from __future__ import annotations

import pandas as pd

from normbench.results.charts.chart import Chart, Spec, brief, chart, panels, seen
from normbench.results.charts.lines import lines
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding, highlighter
from normbench.results.words import counted

CERTIFICATES = {"lipschitz": "certified by Lipschitz constants (%)", "curvature": "certified by curvature (%)"}
PGD = "right under PGD in the 2-norm (%)"


def certified_chart(curve: pd.DataFrame, certified: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws a panel for each certificate that some variant has, and one for the attack.

    curve, certified: the rows of a task in certified_curve.csv and in certified.csv. names: the variants in the order
    of the legend.
    """
    drawn = [name for name in names if name in set(certified["variant"])]
    if not drawn:
        return None
    look = encoding(drawn, looks, "color", "shape", "strokeDash")
    end = brief(curve["radius"].max())
    x = {"field": "radius", "type": "quantitative", "scale": {"domain": [0, end], "nice": False}}
    x["axis"] = {"title": "radius, 2-norm of pixels in 0..1", "tickCount": 6}
    each, found = [], []
    nearest = certified[certified["radius"] == certified["radius"].min()]
    clean = certified.groupby("variant")["clean"].first()
    attack = certified.rename(columns={"pgd": "value"})[["variant", "radius", "value"]]
    without = pd.DataFrame({"variant": clean.index, "radius": 0.0, "value": clean.to_numpy()})
    parts = {name: curve.assign(value=curve[name]) for name in CERTIFICATES}
    if attack["value"].notna().any():
        parts["pgd"] = pd.concat([without, attack]).sort_values("radius", kind="stable")
    for name, part in parts.items():
        rows: list[Spec] = [
            {"variant": row["variant"], "radius": brief(row["radius"]), "value": seen(100 * row["value"])}
            for row in part[part["value"].notna()].to_dict("records")
        ]
        if not rows:
            continue
        title = CERTIFICATES.get(name, PGD)
        y = {"field": "value", "type": "quantitative", "scale": {"domain": [0, 100]}, "axis": {"title": title}}
        each.append(lines(rows, x, y, look, tooltip("variant", "radius", "value"), name))
        if name in CERTIFICATES and nearest[name].notna().any():
            best = nearest.loc[nearest[name].idxmax()]
            found.append(f"{seen(100 * best[name], 1):g} % {title.removesuffix(' (%)')} ({best['variant']})")
    if not each:
        return None
    return chart(
        "certified",
        "Certified accuracy over the radius",
        f"Accuracy over the radius of {counted(len(drawn), 'variant')}{_at_most(nearest, found)}.",
        "The share of test images that keep their right class within a radius, by proof or against an attack on the "
        "same images; mean over seeds. What lies between a certificate and the attack is not known. A certificate is "
        "for the weights with exact sums, less a measured slack for rounding.",
        panels(each, 2, params=[highlighter(*(panel["layer"][0]["name"] for panel in each))]),
    )


def _at_most(nearest: pd.DataFrame, found: list[str]) -> str:
    """Returns the part of the sentence about the smallest radius. nearest: the rows of certified.csv at it."""
    return f"; within {brief(nearest['radius'].iloc[0]):g} at most {' and '.join(found)}" if found else ""
