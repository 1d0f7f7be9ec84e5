"""Tables of what `evaluation.smoothness` measured: Lipschitz constants, norms of layers, feature maps by depth.

Means over finished runs, each with the sample standard deviation beside it.
"""

from __future__ import annotations

from typing import Any

from normbench.results.means import Runs, finished, mean, std

Table = tuple[list[dict[str, Any]], list[str]]  # rows, and the columns in their order

SMOOTHNESS = ["lipschitz_local", "lipschitz_local_max", "lipschitz_bound", "layer_bound_sum", "layer_bound_max"]
NORMS = ["bound", "estimate"]
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
    """One row per task and variant. `no_bound`: why the network has none, hence nothing certified."""
    found = {cell: measured(records, "smoothness") for cell, records in runs.items()}
    radii = {radius for each in found.values() for one in each for radius in one.get("certified", {})}
    numbers = SMOOTHNESS + [f"certified_{radius}" for radius in sorted(radii, key=float)]
    rows = []
    for (task, variant), each in found.items():
        row: dict[str, Any] = {"task": task, "variant": variant}
        row |= {"examples": each[0]["local"]["examples"] if each else ""}
        row |= spreads([of_network(one) for one in each], numbers)
        rows.append(row | {"no_bound": next((one["why"] for one in each if one["bound"] is None), "")})
    return rows, ["task", "variant", "examples", *with_std(numbers), "no_bound"]


def of_network(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of one run by column. Without a bound the layers are not all there: they have no sum."""
    numbers = {"lipschitz_local": found["local"]["mean"], "lipschitz_local_max": found["local"]["max"]}
    if found["bound"] is not None:
        bounds = [layer["bound"] for layer in found["layers"]]
        numbers |= {"lipschitz_bound": found["bound"], "layer_bound_sum": sum(bounds), "layer_bound_max": max(bounds)}
    return numbers | {f"certified_{radius}": share for radius, share in found.get("certified", {}).items()}


def layer_table(runs: Runs) -> Table:
    """One row per task, variant and layer, in order of depth; without a bound, those before the gap."""
    rows = []
    for (task, variant), records in runs.items():
        layers: dict[str, list[dict[str, Any]]] = {}
        for one in measured(records, "smoothness"):
            for layer in one["layers"]:
                layers.setdefault(layer["name"], []).append(layer)
        for place, (name, each) in enumerate(layers.items(), 1):
            row = {"task": task, "variant": variant, "place": place, "layer": name}
            rows.append(row | spreads(each, NORMS))
    return rows, ["task", "variant", "place", "layer", *with_std(NORMS)]


def feature_table(runs: Runs) -> Table:
    """One row per task, variant, block in order of depth, and `when`: initial or trained."""
    rows = []
    for (task, variant), records in runs.items():
        found = measured(records, "features")
        for when in ("initial", "trained"):
            blocks = [[{c: block[name] for c, name in FEATURES.items()} for block in one[when]] for one in found]
            for depth, each in enumerate(zip(*blocks, strict=True), 1):
                row = {"task": task, "variant": variant, "when": when, "block": depth}
                rows.append(row | spreads(list(each), list(FEATURES)))
    return rows, ["task", "variant", "when", "block", *with_std(list(FEATURES))]


def measured(records: list[dict[str, Any]], name: str) -> list[Any]:
    """What finished runs have under a name; nothing of runs that were scored without it."""
    return [record["metrics"][name] for record in finished(records) if record["metrics"].get(name)]


def with_std(columns: list[str]) -> list[str]:
    return [name for column in columns for name in (column, f"{column}_std")]


def spreads(each: list[dict[str, Any]], columns: list[str]) -> dict[str, float]:
    """Mean and deviation of each column over the runs that have it."""
    row = {}
    for column in columns:
        values = [one[column] for one in each if one.get(column) is not None]
        row[column], row[f"{column}_std"] = mean(values), std(values)
    return row
