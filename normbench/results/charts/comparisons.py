"""Differences to the baseline with their intervals and verdicts: a forest plot."""

from __future__ import annotations

from typing import Any

import pandas as pd

from normbench.results.charts.chart import MUTED, Chart, Spec, brief, chart, panels
from normbench.results.charts.look import INK, SHAPES
from normbench.results.charts.scales import reach
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import Looks, name_width, plain_legend
from normbench.results.words import counted

ROW, LOW_ROW, MANY = 18, 13, 12  # height of a row in pixels, and of one of more rows than that
# Verdict -> colour and marker.
VERDICTS = {
    "better": ("#0064e6", SHAPES[2]),
    "worse": ("#d23200", SHAPES[4]),
    "indistinguishable": (INK, SHAPES[0]),
    "no verdict": (INK, SHAPES[6]),
}
TITLES = {
    "clean_accuracy": "clean images",
    "corruption_accuracy": "all corruptions",
    "corruption_noise": "noise",
    "corruption_blur": "blur",
    "corruption_weather": "weather",
    "corruption_digital": "digital corruptions",
    "corruption_extra": "extra corruptions",
    "attack_fgsm": "FGSM",
    "attack_pgd": "PGD",
    "auto_attack": "AutoAttack",
    "mean_iou": "mean IoU",
    "corruption_mean_iou": "mean IoU, corrupted",
    "pixel_accuracy": "pixels",
    "corruption_pixel_accuracy": "pixels, corrupted",
    "fid": "FID",
    "inception_fid": "FID (Inception)",
}
FIDS = {"fid", "inception_fid"}  # the measures that are no shares
FLIPPED = {"better": "worse", "worse": "better"}


def comparison_chart(comparisons: pd.DataFrame, names: list[str], looks: Looks) -> Chart | None:
    """Draws a panel for each measure, with a row for each variant but the baseline.

    comparisons: the rows of a task in comparisons.csv. names: the variants from top to bottom.
    """
    baseline = next((name for name in names if looks[name].baseline), None)
    if baseline is None:
        return None
    rows = [row for row in against(comparisons, baseline) if row["variant"] in names]
    others = [name for name in names if any(row["variant"] == name for row in rows)]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    if not rows:
        return None
    each = [_panel([row for row in rows if row["measure"] == measure], measure, others) for measure in measures]
    unit = "FID; less is better" if FIDS.issuperset(measures) else "points; more is better"
    return chart(
        "comparisons",
        "Differences to the baseline",
        f"Differences of {counted(len(others), 'variant')} to {baseline}: "
        f"{'; '.join(_verdicts(rows, measure) for measure in measures)}.",
        f"In {unit}. Bars are 95 % intervals of the paired difference. Whether a variant is better or worse is the "
        "verdict over the whole table, which allows for the number of comparisons, so that an interval without zero "
        "need not be one.",
        panels(each, 2, name_width(others)),
    )


def against(comparisons: pd.DataFrame, baseline: str) -> list[Spec]:
    """Returns the rows of the comparisons with the baseline, each as seen from the other variant.

    A table has each pair once, so that a row may be the baseline's against the variant; its numbers change their signs.
    """
    rows: list[Spec] = []
    for row in comparisons.to_dict("records"):
        if baseline not in (row["variant"], row["other"]) or pd.isna(row["difference"]):
            continue
        turned = row["variant"] == baseline
        factor = 1.0 if row["measure"] in FIDS else 100.0
        ends = (-row["high"], -row["low"]) if turned else (row["low"], row["high"])
        verdict = _verdict(row["verdict"])
        found = {
            "variant": row["other"] if turned else row["variant"],
            "measure": row["measure"],
            "difference": brief(factor * (-row["difference"] if turned else row["difference"])),
            "verdict": FLIPPED.get(verdict, verdict) if turned else verdict,
        }
        if not pd.isna(row["low"]):
            found |= {"low": brief(factor * ends[0]), "high": brief(factor * ends[1])}
        if not pd.isna(row["smallest_effect"]):
            found["smallest"] = brief(factor * row["smallest_effect"], 3)
        rows.append(found)
    return rows


def _verdict(cell: Any) -> str:
    return cell if isinstance(cell, str) and cell in VERDICTS else "no verdict"


def _verdicts(rows: list[Spec], measure: str) -> str:
    """Returns how many variants are better and worse in a measure: `clean images 1 better, 0 worse`."""
    found = [row["verdict"] for row in rows if row["measure"] == measure]
    return f"{TITLES.get(measure, measure)} {found.count('better')} better, {found.count('worse')} worse"


def _panel(rows: list[Spec], measure: str, names: list[str]) -> Spec:
    verdicts = list(VERDICTS)
    look: Spec = {"field": "verdict", "type": "nominal", "legend": plain_legend(len(verdicts))}
    colour = look | {"scale": {"domain": verdicts, "range": [colour for colour, _ in VERDICTS.values()]}}
    shape = look | {"scale": {"domain": verdicts, "range": [shape for _, shape in VERDICTS.values()]}}
    unit = "difference in FID" if measure in FIDS else "difference (points)"
    values = [row[key] for row in rows for key in ("low", "difference", "high") if row.get(key) is not None]
    low, high = reach([*values, 0.0], 0.05)
    scale = {"domain": [brief(low), brief(high)], "nice": False}
    y = {"field": "variant", "type": "nominal", "sort": names, "scale": {"domain": names}}
    y["axis"] = {"title": None, "domain": False, "ticks": False, "grid": True}
    x = {"field": "difference", "type": "quantitative", "title": unit, "scale": scale, "axis": {"tickCount": 5}}
    return {
        "title": TITLES.get(measure, measure),
        "height": (ROW if len(names) <= MANY else LOW_ROW) * len(names),
        "data": {"values": [{key: value for key, value in row.items() if key != "measure"} for row in rows]},
        "transform": [RANGE],
        "layer": [
            {"data": {"values": [{}]}, "mark": {"type": "rule", **MUTED}, "encoding": {"x": {"datum": 0}}},
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {
                    "y": y,
                    "x": x,
                    "color": colour,
                    "shape": shape,
                    "tooltip": tooltip(
                        "variant", "verdict", "difference", range="95 % interval", smallest="smallest effect to be seen"
                    ),
                },
            },
        ],
    }
