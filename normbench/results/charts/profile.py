"""Performance profiles: the share of runs above a threshold, for all thresholds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normbench.results.charts.chart import Chart, Spec, chart, panels, seen
from normbench.results.charts.lines import PANEL_HEIGHT
from normbench.results.charts.tooltips import tooltip
from normbench.results.charts.variants import Looks, encoding, faded, highlighter
from normbench.results.words import counted

SCORES = {"clean_accuracy": "clean accuracy (%)", "corruption_accuracy": "corruption accuracy (%)"}
THRESHOLDS = 80


def profile_chart(runs: pd.DataFrame, looks: Looks) -> Chart | None:
    """Draws a line for each variant over the runs of all tasks. runs: the rows of classifiers in runs.csv."""
    names = [name for name in looks if name in set(runs["variant"])]
    each: list[Spec] = []
    medians: dict[str, float] = {}
    look = encoding(names, looks, "color", "strokeDash")
    for column, title in SCORES.items():
        if column not in runs or runs[column].isna().all():
            continue
        scores = {name: runs.loc[runs["variant"] == name, column].to_numpy(float) for name in names}
        each.append(_panel(column, scores, title, look))
        if not medians:
            medians = {name: float(np.median(np.nan_to_num(own))) for name, own in scores.items()}
    if not each:
        return None
    best = max(medians, key=lambda name: medians[name])
    return chart(
        "profile",
        "Performance profiles",
        f"Share of the runs of {counted(len(names), 'variant')} over {counted(runs['task'].nunique(), 'task')} above "
        f"each accuracy; {best} has the highest median clean accuracy, {seen(100 * medians[best]):g} %.",
        "The higher a line, the more runs exceed an accuracy. A run that diverged exceeds none.",
        panels(each, 2, params=[highlighter(*(panel["name"] for panel in each))]),
    )


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of scores above each threshold. A score that is not a number is above none."""
    return (scores[None, :] > thresholds[:, None]).mean(1)


def _panel(name: str, scores: dict[str, np.ndarray], title: str, look: Spec) -> Spec:
    every = np.concatenate(list(scores.values()))
    thresholds = np.linspace(np.nanmin(every) - 0.01, np.nanmax(every) + 0.01, THRESHOLDS)
    rows: list[Spec] = []
    for variant, own in scores.items():
        shares = profile(own, thresholds)
        for place, (threshold, share) in enumerate(zip(thresholds, shares, strict=True)):
            # A point within a straight part of the line is not needed.
            if 0 < place < THRESHOLDS - 1 and shares[place - 1] == share == shares[place + 1]:
                continue
            rows.append({"variant": variant, "above": seen(100 * threshold), "share": seen(100 * share, 1)})
    ends = [seen(100 * thresholds[0]), seen(100 * thresholds[-1])]
    x = {"field": "above", "type": "quantitative", "title": title, "scale": {"domain": ends, "nice": False}}
    y = {"field": "share", "type": "quantitative", "title": "runs above (%)", "scale": {"domain": [0, 100]}}
    return {
        "name": name,
        "height": PANEL_HEIGHT,
        "data": {"values": rows},
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
        "encoding": {"x": x, "y": y, "opacity": faded(1), "tooltip": tooltip("variant", "above", "share")} | look,
    }
