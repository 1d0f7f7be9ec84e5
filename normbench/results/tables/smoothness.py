"""The tables of the score `smoothness`: Lipschitz constants, norms of layers, and feature maps by depth.

Numbers are means over finished runs, each with its sample standard deviation.
"""

from __future__ import annotations

import functools
from typing import Any

from normbench.results.tables.means import Runs, finished, mean, std
from normbench.results.tables.reasons import MISSING, explained, is_empty, unfinished, unscored, unspread
from normbench.results.tables.table import PLAIN, REAL, Row, Table, with_std
from normbench.runs.record import Record

SMOOTHNESS = [
    "lipschitz_local",
    "lipschitz_local_max",
    "lipschitz_bound",
    "layer_bound_sum",
    "layer_bound_max",
    "layer_estimate_mean",
]
LAYER = ["bound", "estimate", "spectrum_low", "spectrum_high"]
# Column of results/features.csv -> its name in a record.
FEATURES = {
    "rms": "rms",
    "max": "max",
    "energy_constant": "mean",
    "energy_low": "low",
    "energy_middle": "middle",
    "energy_high": "high",
}


def smoothness_table(runs: Runs) -> Table:
    """Returns a row for each task and variant.

    no_bound: the reason why the network has no Lipschitz bound; then no accuracy is certified.
    """
    found = {cell: measured(records, "smoothness") for cell, records in runs.items()}
    radii = {radius for each in found.values() for one in each for radius in one.get("certified", {})}
    numbers = SMOOTHNESS + [f"certified_{radius}" for radius in sorted(radii, key=float)]
    rows = []
    for (task, variant), each in found.items():
        row: Row = {"task": task, "variant": variant}
        row["examples"] = each[0]["local"]["examples"] if each else ""
        row |= spreads([of_network(one) for one in each], numbers)
        row["no_bound"] = next((one["why"] for one in each if one["bound"] is None), "")
        wanted = ["examples", *with_std(numbers, REAL)]
        rows.append(explained(row, wanted, functools.partial(no_constant, runs[task, variant], row)))
    columns = dict.fromkeys(("task", "variant", "examples"), PLAIN) | with_std(numbers, REAL) | {"no_bound": PLAIN}
    return Table(columns | {MISSING: PLAIN}, rows)


def no_constant(records: list[Record], row: Row, column: str) -> str:
    """Returns why a column of a network is empty. row: its row of the table."""
    if column.endswith("_std") and not is_empty(row[column.removesuffix("_std")]):
        return unspread(records)
    if not measured(records, "smoothness"):
        return unfinished(records) or unscored(records, column, "smoothness")
    return row["no_bound"] or "the bound is 0, or the runs were scored with other radii"


def of_network(found: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of one run by column.

    A network without a bound has no bounds for some of its layers, so that the sum over layers is left out.
    """
    numbers = {"lipschitz_local": found["local"]["mean"], "lipschitz_local_max": found["local"]["max"]}
    if found["bound"] is not None:
        bounds = [layer["bound"] for layer in found["layers"]]
        numbers |= {"lipschitz_bound": found["bound"], "layer_bound_sum": sum(bounds), "layer_bound_max": max(bounds)}
        estimates = [layer["estimate"] for layer in found["layers"] if layer["estimate"] is not None]
        numbers |= {"layer_estimate_mean": mean(estimates)} if estimates else {}
    return numbers | {f"certified_{radius}": share for radius, share in found.get("certified", {}).items()}


def layer_table(runs: Runs) -> Table:
    """Returns a row for each task, variant and layer, in order of depth.

    A network without a bound has only the layers before the first one whose norm is unknown.
    """
    rows = []
    for (task, variant), records in runs.items():
        layers: dict[str, list[dict[str, Any]]] = {}
        for one in measured(records, "smoothness"):
            for layer in one["layers"]:
                low, high = layer.get("spectrum") or (None, None)
                layers.setdefault(layer["name"], []).append(layer | {"spectrum_low": low, "spectrum_high": high})
        for place, (name, each) in enumerate(layers.items(), 1):
            row = {"task": task, "variant": variant, "place": place, "layer": name} | spreads(each, LAYER)
            why = functools.partial(no_part, records, row, "not computed for a layer of this kind")
            rows.append(explained(row, with_std(LAYER, REAL), why))
    columns = dict.fromkeys(("task", "variant", "place", "layer"), PLAIN) | with_std(LAYER, REAL)
    return Table(columns | {MISSING: PLAIN}, rows)


def no_part(records: list[Record], row: Row, unmeasured: str, column: str) -> str:
    """Returns why a column of a layer or a block is empty. unmeasured: why no run has the number."""
    alone = column.endswith("_std") and not is_empty(row[column.removesuffix("_std")])
    return unspread(records) if alone else unmeasured


def feature_table(runs: Runs) -> Table:
    """Returns a row for each task, variant, `when` (initial or trained) and block, in order of depth."""
    rows = []
    for (task, variant), records in runs.items():
        found = measured(records, "features")
        for when in ("initial", "trained"):
            blocks = [[{c: block[name] for c, name in FEATURES.items()} for block in one[when]] for one in found]
            for depth, each in enumerate(zip(*blocks, strict=True), 1):
                row: Row = {"task": task, "variant": variant, "when": when, "block": depth}
                row |= spreads(list(each), list(FEATURES))
                why = functools.partial(no_part, records, row, "the feature maps are not finite")
                rows.append(explained(row, with_std(FEATURES, REAL), why))
    columns = dict.fromkeys(("task", "variant", "when", "block"), PLAIN) | with_std(FEATURES, REAL)
    return Table(columns | {MISSING: PLAIN}, rows)


def measured(records: list[Record], name: str) -> list[Any]:
    """Returns a metric of the finished runs that have it; runs may have been scored without it."""
    return [record.metrics[name] for record in finished(records) if record.metrics.get(name)]


def spreads(each: list[dict[str, Any]], columns: list[str]) -> dict[str, float]:
    """Returns mean and standard deviation of each column over the runs that have it."""
    row = {}
    for column in columns:
        values = [one[column] for one in each if one.get(column) is not None]
        row[column], row[f"{column}_std"] = mean(values), std(values)
    return row
