"""The charts of the report, as Vega-Lite specifications and as static pictures.

A module has one chart. `charts`, `segmentation_charts`, `gan_charts` and `overall_charts` return those for which there
are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from normbench.results.charts.across import across_chart
from normbench.results.charts.attacks import attack_chart
from normbench.results.charts.bounds import RATIOS, bound_chart
from normbench.results.charts.calibration import calibration_chart
from normbench.results.charts.certified import CERTIFICATES, certified_chart
from normbench.results.charts.chart import Chart
from normbench.results.charts.comparisons import comparison_chart
from normbench.results.charts.conditions import condition_charts
from normbench.results.charts.corruptions import corruption_chart
from normbench.results.charts.cost import cost_chart
from normbench.results.charts.curves import curve_chart
from normbench.results.charts.diversity import diversity_chart
from normbench.results.charts.features import BANDS, SIZES, energy_chart, feature_chart
from normbench.results.charts.fid import fid_chart
from normbench.results.charts.gan_losses import LOSSES, gan_loss_chart
from normbench.results.charts.kid import kid_chart
from normbench.results.charts.layers import NORMS, layer_chart
from normbench.results.charts.look import Look, looks
from normbench.results.charts.picture import VEGA_LITE
from normbench.results.charts.profile import profile_chart
from normbench.results.charts.robustness import robustness_chart
from normbench.results.charts.spectral_norms import spectral_norm_chart
from normbench.results.charts.variants import Looks
from normbench.runs.run import Kind
from normbench.training.task import Task

__all__ = [
    "VEGA_LITE",
    "Chart",
    "Look",
    "Looks",
    "charts",
    "gan_charts",
    "looks",
    "overall_charts",
    "segmentation_charts",
]

Tables = Mapping[str, pd.DataFrame]  # by the name of their file

# The columns that the charts need. A table leaves out columns without a value, and one without rows need not be there.
COSTS = ("peak_memory_mib", "parameters")
NEEDED: dict[str, tuple[str, ...]] = {
    "leaderboard": (
        "task",
        "variant",
        "clean_accuracy",
        "clean_accuracy_std",
        "corruption_accuracy",
        "corruption_accuracy_std",
        "mce",
        *COSTS,
    ),
    "segmentation": (
        "task",
        "variant",
        *(f"{name}{end}" for name in ("mean_iou", "corruption_mean_iou") for end in ("", "_std")),
        *COSTS,
    ),
    "gan": ("task", "variant", "fid", "fid_std", *COSTS),
    "runs": ("kind", "task", "variant", "seed", "status", "clean_accuracy", "corruption_accuracy", "fid"),
    "speeds": ("kind", "task", "variant", "images_per_second", "seconds", "ratio"),
    "comparisons": (
        "kind",
        "task",
        "measure",
        "variant",
        "other",
        "difference",
        "low",
        "high",
        "verdict",
        "smallest_effect",
    ),
    "robustness": ("task", "variant"),
    "corruptions": ("task", "variant", "corruption", "mean"),
    "curves": ("task", "variant", "seed", "epoch", "loss", "accuracy"),
    "gan_curves": ("task", "variant", "seed", "iteration", *LOSSES, "diversity", "largest_norm"),
    "gan_norms": ("task", "variant", "seed", "iteration", "layer", "norm"),
    "layers": ("task", "variant", "layer", *NORMS),
    "features": ("task", "variant", "when", "block", *SIZES, *BANDS),
    "certified": ("task", "variant", "radius", "clean", "pgd", *CERTIFICATES),
    "certified_curve": ("task", "variant", "radius", *CERTIFICATES),
    "bounds": ("task", "variant", "layer", *RATIOS, "zero_padded", "circular", "tightest"),
    "overall": (
        "variant",
        "tasks",
        *(f"{name}{end}" for name in ("iqm", "improvement") for end in ("", "_low", "_high")),
        "average_rank",
        "critical_difference",
    ),
}


def charts(task: str, tables: Tables, looks: Looks) -> list[Chart]:
    """Returns the charts of a task of classification. tables: those of build/tables. looks: see `looks`."""
    own = _of(tables, Kind.CLASSIFICATION, task)
    board, runs, robustness = own["leaderboard"], own["runs"], own["robustness"]
    names, failures = list(board["variant"]), _failures(runs)
    found = [
        cost_chart(board, own["speeds"], looks),
        comparison_chart(own["comparisons"], names, looks),
        robustness_chart(board, looks),
        corruption_chart(board, own["corruptions"], looks),
        attack_chart(robustness, runs, names, looks),
        calibration_chart(robustness, names),
        certified_chart(own["certified_curve"], own["certified"], names, looks),
        curve_chart(own["curves"], failures, names, looks),
        layer_chart(own["layers"], names, looks),
        bound_chart(own["bounds"], names, looks),
        feature_chart(own["features"], names, looks),
        energy_chart(own["features"], names, looks),
    ]
    return [chart for chart in found if chart is not None]


def segmentation_charts(task: str, tables: Tables, looks: Looks) -> list[Chart]:
    """Returns the charts of a task of segmentation. tables, looks: as for `charts`."""
    own = _of(tables, Kind.SEGMENTATION, task)
    names, failures = list(own["segmentation"]["variant"]), _failures(own["runs"])
    found = [
        cost_chart(own["segmentation"], own["speeds"], looks),
        comparison_chart(own["comparisons"], names, looks),
        curve_chart(own["curves"], failures, names, looks),
    ]
    return [chart for chart in found if chart is not None]


def gan_charts(task: str, tables: Tables, looks: Looks) -> list[Chart]:
    """Returns the charts of a GAN task. tables, looks: as for `charts`."""
    own = _of(tables, Kind.GAN, task)
    names, failures, history = list(own["gan"]["variant"]), _failures(own["runs"]), own["gan_curves"]
    found = [
        fid_chart(own["runs"], names, looks),
        comparison_chart(own["comparisons"], names, looks),
        kid_chart(history, failures, names, looks),
        diversity_chart(history, failures, names, looks),
        gan_loss_chart(history, failures, names, looks),
        spectral_norm_chart(history, own["gan_norms"], failures, names, looks),
        cost_chart(own["gan"], own["speeds"], looks),
    ]
    return [chart for chart in found if chart is not None]


def _failures(runs: pd.DataFrame) -> set[tuple[str, int]]:
    """Returns variant and seed of the runs that diverged or collapsed. runs: the rows of a task in runs.csv."""
    failed = runs[runs["status"] != "finished"]
    return set(zip(failed["variant"], failed["seed"], strict=True))


def overall_charts(tables: Tables, looks: Looks, tasks: Mapping[str, Task]) -> list[Chart]:
    """Returns the charts across tasks. tables, looks: as for `charts`. tasks: those of classification, by their names.

    Those of `overall` and of runs need that table, which only suites with comparable tasks have.
    """
    overall, runs = _whole(tables, "overall"), _whole(tables, "runs")
    compared = (runs["kind"] == Kind.CLASSIFICATION.value) & runs["variant"].isin(overall["variant"])
    found = [across_chart(overall, looks), profile_chart(runs[compared], looks)]
    return [chart for chart in found if chart is not None] + condition_charts(
        _whole(tables, "leaderboard"), tasks, looks
    )


def _of(tables: Tables, kind: Kind, task: str) -> dict[str, pd.DataFrame]:
    """Returns the rows of a task in each table; a task and a GAN task may have the same name."""
    own = {}
    for name in NEEDED:
        found = _whole(tables, name)
        if "task" in found:
            found = found[found["task"] == task]
        own[name] = found[found["kind"] == kind.value] if "kind" in found else found
    return own


def _whole(tables: Tables, name: str) -> pd.DataFrame:
    """Returns a table with all columns that the charts need."""
    table = tables.get(name, pd.DataFrame())
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *NEEDED[name]])))
