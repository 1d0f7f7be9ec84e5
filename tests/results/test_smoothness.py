"""results/smoothness.csv, layers.csv and features.csv against sums in plain Python, and what the page shows of them."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

from normbench.results.report import render
from normbench.results.tables import aggregate
from tests.results.made_up_suite import (
    LAYERS,
    TASK,
    UNBOUNDED,
    UNMEASURED,
    VARIANTS,
    edit_metrics,
    finished,
    rows,
)
from tests.results.page import Page


def test_networks_against_plain_sums(suite: None) -> None:
    aggregate()
    found = {row["variant"]: row for row in rows("results/smoothness.csv")}
    assert set(found) == set(VARIANTS)
    for variant, row in found.items():
        runs = [] if variant == UNMEASURED else [record.metrics["smoothness"] for record in finished(variant)]
        bounded = [run for run in runs if run["bound"] is not None]
        expected = {
            "lipschitz_local": [run["local"]["mean"] for run in runs],
            "lipschitz_local_max": [run["local"]["max"] for run in runs],
            "lipschitz_bound": [run["bound"] for run in bounded],
            "layer_bound_sum": [sum(layer["bound"] for layer in run["layers"]) for run in bounded],
            "layer_bound_max": [max(layer["bound"] for layer in run["layers"]) for run in bounded],
            "layer_estimate_mean": [
                statistics.mean(layer["estimate"] for layer in run["layers"] if layer["estimate"] is not None)
                for run in bounded
            ],
            "certified_8": [run["certified"]["8"] for run in bounded],
            "certified_36": [run["certified"]["36"] for run in bounded],
        }
        columns = [name for column in expected for name in (column, f"{column}_std")]
        assert list(row) == ["task", "variant", "examples", *columns, "no_bound", "missing"]
        assert (row["task"], row["examples"]) == (TASK, "100" if runs else "")
        for column, values in expected.items():
            if not values:
                assert row[column] == row[f"{column}_std"] == ""
                continue
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5)
        assert row["no_bound"] == ("no Lipschitz constant is known for GroupNorm" if variant == UNBOUNDED else "")


def test_layers_and_features_against_plain_sums(suite: None) -> None:
    aggregate()
    measured = [variant for variant in VARIANTS if finished(variant) and variant != UNMEASURED]
    layers = {(row["variant"], row["layer"]): row for row in rows("results/layers.csv")}
    own = {variant: LAYERS[:1] if variant == UNBOUNDED else LAYERS for variant in measured}
    assert list(layers) == [(variant, name) for variant, names in own.items() for name in names]
    for (variant, name), row in layers.items():
        place = LAYERS.index(name)
        assert int(row["place"]) == place + 1
        for column in ("bound", "estimate", "spectrum_low", "spectrum_high"):
            runs = [record.metrics["smoothness"]["layers"][place] for record in finished(variant)]
            ends = {"spectrum_low": 0, "spectrum_high": 1}
            values = [
                run[column] if column not in ends else run["spectrum"] and run["spectrum"][ends[column]] for run in runs
            ]
            if values[0] is None:
                assert row[column] == row[f"{column}_std"] == ""
                continue
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5)
    assert layers["network_deconvolution", "conv"]["estimate"] == ""
    assert layers["network_deconvolution", "head"]["estimate"] != ""
    assert layers["network_deconvolution", "conv"]["spectrum_low"] != ""
    assert layers["network_deconvolution", "head"]["spectrum_low"] == ""

    blocks = {(row["variant"], row["when"], row["block"]): row for row in rows("results/features.csv")}
    assert list(blocks) == [(v, when, block) for v in measured for when in ("initial", "trained") for block in "12"]
    names = {"rms": "rms", "max": "max", "energy_constant": "mean"}
    names |= {f"energy_{band}": band for band in ("low", "middle", "high")}
    for (variant, when, block), row in blocks.items():
        for column, name in names.items():
            values = [record.metrics["features"][when][int(block) - 1][name] for record in finished(variant)]
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5, abs=1e-12)
        shares = [float(row[column]) for column in names if column.startswith("energy")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_page_shows_smoothness_and_features(page: str) -> None:
    found = Page(page)
    assert page.count("<h3>Smoothness</h3>") == 1
    heads = next(row for row in found.rows if "Lipschitz" in map(str.strip, row))
    assert [head.strip() for head in heads[1:]] == ["Lipschitz"] * 3 + ["Norms of layers"] * 3 + ["Certified"] * 2
    shown = found.table("Lipschitz")
    assert set(shown) == set(VARIANTS)
    dash = "\N{EN DASH}"
    assert shown[UNMEASURED] == shown["spectral_norm"] == [dash] * 8
    assert shown[UNBOUNDED][2:] == [dash] * 6
    runs = [record.metrics["smoothness"] for record in finished("fantastic_four")]
    local, certified = ([run["local"]["mean"] for run in runs], [100 * run["certified"]["36"] for run in runs])
    for cell, values in ((0, local), (7, certified)):
        assert shown["fantastic_four"][cell] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert "within 36/255, %" in page
    assert re.search(r'<small class="mark">(\w)</small> no Lipschitz constant is known for GroupNorm', page)
    assert all(layer in found.table("Layer") for layer in LAYERS)


def test_without_smoothness_there_is_no_section(suite: None) -> None:
    for path in Path("build/scores/classification").rglob("*.json"):
        edit_metrics(path, lambda metrics: [metrics.pop(name, None) for name in ("smoothness", "features")])
    aggregate()
    assert "lipschitz_local" not in rows("results/smoothness.csv")[0]  # nor any other column that would be empty
    assert {row["lipschitz_local"] for row in rows("build/tables/smoothness.csv")} == {""}
    for name in ("layers", "features"):
        assert Path(f"results/{name}.csv").read_text(encoding="utf-8").count("\n") == 1
    page = render(Path("build/tables"))
    assert "<h3>Smoothness</h3>" not in page
    assert "<h3>Norms of layers" not in page
    assert ">Feature maps by depth<" not in page
