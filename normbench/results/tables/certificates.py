"""The tables of the score `certificates`: certified accuracy beside that under attack, and every bound on each layer.

Numbers are means over finished runs, each with its sample standard deviation.
"""

from __future__ import annotations

import functools
from typing import Any

from normbench.results.tables.comparisons import against
from normbench.results.tables.means import Runs, mean
from normbench.results.tables.outcomes import PROVEN, certified
from normbench.results.tables.reasons import MISSING, explained, is_empty
from normbench.results.tables.smoothness import measured, no_part, spreads
from normbench.results.tables.table import PLAIN, REAL, SHARE, Row, Table, with_std
from normbench.runs.record import Record
from normbench.runs.run import Kind

CERTIFICATES = ("lipschitz", "curvature")
SHARES = ["clean", "pgd", *CERTIFICATES]
MEANS = [f"{name}_mean" for name in CERTIFICATES]
# Upper bounds for zero and circular padding of which one is the tightest of a layer.
RIVALS = ("r", "s", "t", "u", "grid")
BOUNDS = [*RIVALS[:4], "fantastic_four", "grid", "certificate", "gram", "circular", "zero_padded"]


def certified_table(runs: Runs, baseline: str | None, compared: Table) -> Table:
    """Returns a row for each task, variant and radius, of the variants that were scored.

    baseline: the variant on which the verdicts are. compared: see `comparisons`.
    """
    rows = []
    for (task, variant), records in runs.items():
        found = measured(records, "certificates")
        for radius in sorted({each["radius"] for one in found for each in one["at"]}):
            row: Row = {"task": task, "variant": variant, "radius": radius, "examples": found[0]["examples"]}
            row |= spreads([at_radius(one, radius) for one in found], [*SHARES, *MEANS])
            row |= {f"no_{name}": reason_of(found, name) for name in CERTIFICATES}
            for name in PROVEN:
                verdicts = against(compared, Kind.CLASSIFICATION, certified(name, radius), baseline)
                row[f"{name}_verdict"] = verdicts.get((task, variant), "")
            numbers = [*with_std(SHARES, SHARE), *with_std(MEANS, REAL)]
            rows.append(explained(row, numbers, functools.partial(no_share, records, row)))
    columns = dict.fromkeys(("task", "variant", "radius", "examples"), PLAIN) | {"radius": REAL}
    for name in SHARES:
        columns |= with_std([name], SHARE) | ({f"{name}_verdict": PLAIN} if name in PROVEN else {})
    columns |= with_std(MEANS, REAL)
    return Table(columns | {f"no_{name}": PLAIN for name in CERTIFICATES} | {MISSING: PLAIN}, rows)


def at_radius(found: dict[str, Any], radius: float) -> dict[str, Any]:
    """Returns the numbers of one run at a radius; without those of the radius if it was scored with others."""
    here: dict[str, Any] = next((each for each in found["at"] if each["radius"] == radius), {})
    return found | {name: here.get(name) for name in ("pgd", *CERTIFICATES)}


def reason_of(found: list[dict[str, Any]], name: str) -> str:
    """Returns why the networks of a variant have no certificate of a kind; empty if they have."""
    return next((one[f"no_{name}"] for one in found if one.get(f"no_{name}")), "")


def no_share(records: list[Record], row: Row, column: str) -> str:
    """Returns why a column of a row of certified.csv is empty."""
    name = column.removesuffix("_std").removesuffix("_mean")
    unmeasured = "no attack was made" if name == "pgd" else row.get(f"no_{name}") or "scored with other radii"
    return no_part(records, row, unmeasured, column)


def certified_curve(runs: Runs) -> Table:
    """Returns a row for each task, variant and radius of the curve of certified accuracy, for the report."""
    rows = []
    for (task, variant), records in runs.items():
        found = [one["curve"] for one in measured(records, "certificates")]
        for place, radius in enumerate(found[0]["radius"] if found else []):
            alike = [one for one in found if one["radius"] == found[0]["radius"]]
            row: Row = {"task": task, "variant": variant, "radius": radius}
            row |= {name: mean(one[name][place] for one in alike if one[name]) for name in CERTIFICATES}
            rows.append(row)
    return Table(
        dict.fromkeys(("task", "variant"), PLAIN) | {"radius": REAL} | dict.fromkeys(CERTIFICATES, SHARE), rows
    )


def bound_table(runs: Runs) -> Table:
    """Returns a row for each task, variant and layer, in order of depth.

    tightest: the least of the bounds that hold for every padding, by the means over runs; empty for a linear layer.
    """
    rows = []
    for (task, variant), records in runs.items():
        layers: dict[str, list[dict[str, Any]]] = {}
        for one in measured(records, "layer_bounds"):
            for layer in one:
                layers.setdefault(layer["name"], []).append(layer)
        for place, (name, each) in enumerate(layers.items(), 1):
            row: Row = {"task": task, "variant": variant, "place": place, "layer": name, "kernel": each[0]["kernel"]}
            row |= spreads(each, BOUNDS)
            known = {rival: row[rival] for rival in RIVALS if not is_empty(row[rival])}
            row["tightest"] = min(known, key=known.__getitem__) if known else ""
            why = functools.partial(no_part, records, row, "a linear layer has its exact norm")
            rows.append(explained(row, [*with_std(BOUNDS, REAL), "tightest"], why))
    columns = dict.fromkeys(("task", "variant", "place", "layer", "kernel"), PLAIN) | with_std(BOUNDS, REAL)
    return Table(columns | {"tightest": PLAIN, MISSING: PLAIN}, rows)
