"""Panels of what is noted while runs train: the mean of a variant, its range over runs, and runs that failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from normbench.results.charts.chart import Spec, brief
from normbench.results.charts.lines import lines, up
from normbench.results.charts.tooltips import RANGE, tooltip
from normbench.results.charts.variants import faded

MOST_TIMES = 60  # of a line; more could not be told apart
CROSS = "M-1,-1L1,1M-1,1L1,-1"


def is_failed(history: pd.DataFrame, failures: set[tuple[str, int]]) -> pd.Series:
    """Returns for each row of a history whether it is of a run that failed. failures: variant and seed of those."""
    return pd.Series(list(zip(history["variant"], history["seed"], strict=True)), history.index).isin(failures)


def panel(
    name: str,
    title: str | None,
    history: pd.DataFrame,
    failed: pd.Series,
    time: str,
    times: list[int],
    look: Spec,
    factor: float = 1,
    log: bool = False,
    column: str = "",
    below: Sequence[Spec] = (),
    choice: str = "",
) -> Spec:
    """Returns a panel with a line for each variant, the mean over its runs, and a band from the lowest to the highest.

    Each run that failed is a thin line of its own that ends in a cross. name: of the view that a highlighter needs.
    title: of the vertical axis, or None. history: has a row for each run and time. failed: see `is_failed`. time: the
    column of the times, and the title of their axis. times: those that are drawn. factor: on the values. column: of
    the values, if it is not called like the panel. below: further layers, behind the others. choice: a parameter of the
    chart, and a column: only rows that have its value there are drawn.
    """
    source = column or name
    more = [choice] if choice else []
    whole = means(history[~failed], time, source, factor, times, more)
    broken = single(history[failed], time, source, factor, times, more)
    chosen = [{"filter": f"datum.{choice} == {choice}"} for choice in more]
    ticks = {"tickMinStep": 1, "format": "d", "title": time}
    x = {"field": time, "type": "quantitative", "scale": {"zero": False, "nice": False, "padding": 8}, "axis": ticks}
    band = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area", "clip": True},  # A low end may be near 0, which a logarithmic axis leaves out.
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": look["color"],
            "opacity": faded(0.15),
        },
    }
    thin: Spec = {
        "data": {"values": broken},
        "transform": chosen,
        "encoding": {"color": look["color"], "detail": {"field": "seed"}, "opacity": faded(0.8)},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 0.8}},
            {
                "transform": [{"filter": "datum.end"}],
                "mark": {"type": "point", "shape": CROSS, "size": 50, "strokeWidth": 1.5},
                "encoding": {"tooltip": tooltip("variant", "seed", time)},
            },
        ],
    }
    return lines(
        whole,
        x,
        up([row["value"] for row in [*whole, *broken]], "value", title, log),
        look,
        tooltip("variant", time, "value", "range"),
        name,
        below=[*below, band],
        above=[thin] if broken else [],
        of_line=("variant", *more),
        transform=[*chosen, RANGE],
    )


def chosen_epochs(last: int) -> list[int]:
    """Returns the epochs that are drawn: all, or evenly spread ones with the first and the last."""
    return sorted({int(epoch) for epoch in np.linspace(1, last, min(last, MOST_TIMES)).round()})


def chosen_times(noted: Iterable[int]) -> list[int]:
    """Returns the times that are drawn of those at which something was noted, chosen like epochs."""
    every = sorted({int(time) for time in noted})
    return [every[number - 1] for number in chosen_epochs(len(every))]


def means(
    history: pd.DataFrame, time: str, column: str, factor: float, times: list[int], more: Sequence[str] = ()
) -> list[Spec]:
    """Returns a row for each variant and time with the mean over runs and, of several, the lowest and the highest.

    more: further columns whose values each have rows of their own.
    """
    rows = []
    keys = ["variant", *more, time]
    found = history[history[time].isin(times)].groupby(keys)[column].agg(["mean", "min", "max", "size"]).reset_index()
    for each in found.to_dict("records"):
        row = {key: each[key] for key in keys} | {"value": brief(factor * each["mean"])}
        if each["size"] > 1:
            row |= {"low": brief(factor * each["min"]), "high": brief(factor * each["max"])}
        rows.append(row)
    return [row for row in rows if row["value"] is not None]


def single(
    history: pd.DataFrame, time: str, column: str, factor: float, times: list[int], more: Sequence[str] = ()
) -> list[Spec]:
    """Returns a row for each run and time; the last of a run has an `end`. more: as for `means`."""
    rows: list[Spec] = []
    keys = ["variant", "seed", *more]
    for key, run in history.groupby(keys):
        last = run[time].max()
        for row in run[run[time].isin([*times, last])].to_dict("records"):
            value = brief(factor * row[column])
            if value is not None:
                end = {"end": 1} if row[time] == last else {}
                rows.append(dict(zip(keys, key, strict=True)) | {time: row[time], "value": value} | end)
    return rows


def ends(last: pd.Series) -> str:
    """Returns words about the last time that is drawn. last: the means by variant, over their finished runs."""
    if not len(last):
        return "no run was finished"
    low, high = last.idxmin(), last.idxmax()
    return f"at the end the means lie from {brief(last[low], 3):g} ({low}) to {brief(last[high], 3):g} ({high})"
