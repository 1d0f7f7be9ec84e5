"""The charts of the report, as Vega-Lite specifications and as static pictures.

A module has one chart. `charts`, `gan_charts` and `overall_charts` return those for which there are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from normbench.results.charts.across import across_chart
from normbench.results.charts.attacks import attack_chart
from normbench.results.charts.calibration import calibration_chart
from normbench.results.charts.chart import VEGA_LITE, Chart
from normbench.results.charts.comparisons import comparison_chart
from normbench.results.charts.conditions import condition_charts
from normbench.results.charts.corruptions import corruption_chart
from normbench.results.charts.cost import cost_chart
from normbench.results.charts.curves import curve_chart
from normbench.results.charts.features import energy_chart, feature_chart
from normbench.results.charts.fid import fid_chart
from normbench.results.charts.layers import layer_chart
from normbench.results.charts.look import Look, looks
from normbench.results.charts.profile import profile_chart
from normbench.results.charts.robustness import robustness_chart
from normbench.results.charts.variants import Looks
from normbench.runs.run import Kind
from normbench.training.task import Task

__all__ = ["VEGA_LITE", "Chart", "Look", "Looks", "charts", "gan_charts", "looks", "overall_charts"]

Tables = Mapping[str, pd.DataFrame]  # by the name of their file


def charts(task: str, tables: Tables, looks: Looks) -> list[Chart]:
    """Returns the charts of a task of classification. tables: those of build/tables. looks: see `looks`."""
    own = _of(tables, Kind.CLASSIFICATION, task)
    board, runs, robustness = own["leaderboard"], own["runs"], own["robustness"]
    names = list(board["variant"])
    failed = runs[runs["status"] != "finished"]
    failures = set(zip(failed["variant"], failed["seed"], strict=True))
    found = [
        cost_chart(board, own["speeds"], looks),
        comparison_chart(own["comparisons"], names, looks),
        robustness_chart(board, looks),
        corruption_chart(board, own["corruptions"], looks),
        attack_chart(robustness, runs, names, looks),
        calibration_chart(robustness, names),
        curve_chart(own["curves"], failures, names, looks),
        layer_chart(own["layers"], names, looks),
        feature_chart(own["features"], names, looks),
        energy_chart(own["features"], names, looks),
    ]
    return [chart for chart in found if chart is not None]


def gan_charts(task: str, tables: Tables, looks: Looks) -> list[Chart]:
    """Returns the charts of a GAN task. tables, looks: as for `charts`."""
    own = _of(tables, Kind.GAN, task)
    names = list(own["gan"]["variant"])
    found = [
        fid_chart(own["runs"], names, looks),
        comparison_chart(own["comparisons"], names, looks),
        cost_chart(own["gan"], own["speeds"], looks),
    ]
    return [chart for chart in found if chart is not None]


def overall_charts(tables: Tables, looks: Looks, tasks: Mapping[str, Task]) -> list[Chart]:
    """Returns the charts across tasks. tables, looks: as for `charts`. tasks: those of classification, by their names.

    Those of `overall` and of runs need that table, which only suites with comparable tasks have.
    """
    found: list[Chart | None] = []
    overall = tables.get("overall")
    if overall is not None and len(overall):
        runs = tables["runs"]
        found.append(across_chart(overall, looks))
        compared = set(overall["variant"])
        classifiers = runs[(runs["kind"] == Kind.CLASSIFICATION.value) & runs["variant"].isin(compared)]
        found.append(profile_chart(classifiers, looks))
    return [chart for chart in found if chart is not None] + condition_charts(tables["leaderboard"], tasks, looks)


def _of(tables: Tables, kind: Kind, task: str) -> dict[str, pd.DataFrame]:
    """Returns the rows of a task in each table; a task and a GAN task may have the same name."""
    own = {}
    for name, table in tables.items():
        found = table[table["task"] == task] if "task" in table else table
        own[name] = found[found["kind"] == kind.value] if "kind" in found else found
    return own
