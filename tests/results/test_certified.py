"""results/certified.csv and bounds.csv against sums in plain Python, and what the page shows of them."""

from __future__ import annotations

import random
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.evaluation.certificates import Results
from normbench.evaluation.layer_bounds import NAMES
from normbench.results.report import render
from normbench.results.tables import aggregate
from normbench.results.tables.outcomes import Predictions
from normbench.system import npy
from tests.results.made_up_suite import SEEDS, TASK, edit_metrics, labels_of_test, place, predictions, rows
from tests.results.page import Page

BOTH, ONE = "batch_norm", "group_norm"  # with both certificates; with that of Lipschitz constants alone
RADII = [0.125, 0.5]
WHY = "ReLU has no known second derivative"
SHARES = ("clean", "pgd", "lipschitz", "curvature")


def certificates(variant: str, seed: int) -> dict[str, Any]:
    """The metric of that name."""
    draw = random.Random(f"{variant}/{seed}/certificates")
    curved, shift = variant == BOTH, draw.uniform(0, 0.05)
    found: dict[str, Any] = {"version": 1, "examples": 40, "clean": 0.9 + shift, "slack": 1e-6}
    found["at"] = [
        {
            "radius": radius,
            "pgd": 0.8 - radius + shift,
            "lipschitz": 0.5 - radius + shift,
            "curvature": 0.625 - radius + shift if curved else None,
        }
        for radius in RADII
    ]
    found |= {"lipschitz_mean": 0.2 + shift, "curvature_mean": 0.3 if curved else None}
    found["curve"] = {
        "radius": [0.0, 0.25, 0.5],
        "lipschitz": [0.9, 0.375 + shift, 0.0],
        "curvature": [0.9, 0.5, 0.125] if curved else None,
    }
    return found if curved else found | {"no_curvature": WHY}


def images(variant: str, seed: int) -> dict[str, np.ndarray]:
    """The arrays of 60 images in the predictions file; the second variant certifies and keeps far less."""
    chance, share = np.random.default_rng([len(variant), seed]), 1.0 if variant == BOTH else 0.3
    index = chance.permutation(len(labels_of_test()))[:60]
    radii = share * chance.uniform(0, 0.8, 60)
    right = labels_of_test()[index]
    under = [np.where(radii + 0.1 > radius, right, right + 1) for radius in RADII]
    found = {"certificate_index": index, "certificate_lipschitz": radii, "certificate_pgd": np.stack(under)}
    return found | ({"certificate_curvature": radii + 0.05} if variant == BOTH else {})


def share(variant: str, seed: int, name: str, radius: float) -> float:
    """Of these images, those that keep their right class within a radius."""
    found = images(variant, seed)
    right = labels_of_test()[found["certificate_index"]]
    under = found["certificate_pgd"][RADII.index(radius)]
    return float(np.mean(under == right if name == "pgd" else found["certificate_lipschitz"] >= radius))


def layers(variant: str, seed: int) -> list[dict[str, Any]]:
    """The metric `layer_bounds`: the four bounds are tightest for the first layer, and the grid for the second."""
    draw = random.Random(f"{variant}/{seed}/bounds")
    found = []
    for name, grid in (("conv", 1.5), ("stages.0.0.conv1", 1.04)):
        norm = draw.uniform(1, 2)
        factors = dict(zip(NAMES, (1.6, 1.4, 1.3, 1.45, 1.3, grid, min(1.3, grid), 1.01, 1.0, 0.98), strict=True))
        found.append({"name": name, "kernel": "3x3"} | {key: factor * norm for key, factor in factors.items()})
    head = dict.fromkeys(NAMES) | {"certificate": draw.uniform(1, 2)}
    return [*found, {"name": "head", "kernel": "linear"} | head]


def inject() -> None:
    """Adds the metrics to the records of two variants."""
    for variant in (BOTH, ONE):
        for seed in SEEDS:
            new = {"certificates": certificates(variant, seed), "layer_bounds": layers(variant, seed)}
            Results.model_validate(new)  # They are what the score can store.
            edit_metrics(place(variant, seed), lambda metrics, new=new: metrics.update(new))


def test_certified_accuracy_against_plain_sums(suite: None) -> None:
    inject()
    aggregate()
    found = rows("results/certified.csv")
    assert [(row["task"], row["variant"], float(row["radius"])) for row in found] == [
        (TASK, variant, radius) for variant in (BOTH, ONE) for radius in RADII
    ]
    numbers = [*SHARES, "lipschitz_mean", "curvature_mean"]
    spread = [name for column in numbers for name in (column, f"{column}_std")]
    # No variant lacks a Lipschitz certificate, so there is no column of reasons.
    assert list(found[0]) == ["task", "variant", "radius", "examples", *spread, "no_curvature", "missing"]
    for row in found:
        runs = [certificates(row["variant"], seed) for seed in SEEDS]
        each = [{**run, **run["at"][RADII.index(float(row["radius"]))]} for run in runs]
        for column in numbers:
            values = [one[column] for one in each]
            if None in values:
                assert row[column] == row[f"{column}_std"] == ""
                continue
            assert float(row[column]) == pytest.approx(statistics.mean(values), abs=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-3, abs=1e-5)
        bare = row["variant"] == ONE
        assert row["no_curvature"] == (WHY if bare else "")
        columns = "curvature, curvature_std, curvature_mean, curvature_mean_std"
        assert row["missing"] == (f"{columns}: {WHY}" if bare else "")


def test_verdicts_are_on_the_same_images_and_seeds(suite: None) -> None:
    """Those of comparisons.csv, whose differences are of shares of images."""
    inject()
    for variant in (BOTH, ONE):
        for seed in SEEDS:
            path = place(variant, seed).with_suffix(".npz")
            npy.save_compressed(path, predictions(variant, seed) | images(variant, seed))
    aggregate()
    compared = {(row["measure"], row["variant"], row["other"]): row for row in rows("results/comparisons.csv")}
    board = {(row["variant"], float(row["radius"])): row for row in rows("results/certified.csv")}
    for radius in RADII:
        for name in ("lipschitz", "pgd"):
            means = [statistics.mean(share(variant, seed, name, radius) for seed in SEEDS) for variant in (BOTH, ONE)]
            row = compared[f"certified_{name}_{radius:g}", BOTH, ONE]
            assert float(row["difference"]) == pytest.approx(means[0] - means[1], abs=1e-5)
            assert (int(row["seeds"]), int(row["examples"])) == (len(SEEDS), 60)
            assert row["verdict"] == "better"
            assert board[ONE, radius][f"{name}_verdict"] == "worse"
        assert board[BOTH, radius]["lipschitz_verdict"] == ""  # the baseline
    assert board[ONE, 0.5].get("curvature_verdict", "") == ""  # has no such certificate
    assert compared["certified_curvature_0.5", BOTH, ONE]["missing"] == f"not measured: {ONE}"
    text = Path("results/certified.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {TASK} | {ONE} | 0.125 |")]
    assert line.split(" | ")[5].endswith(", worse")
    assert f"against `{BOTH}`" in text
    page = Page(render(Path("build/tables")))
    texts = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    head = next(number for number, row in enumerate(texts) if row[1:3] == ["Clean", "PGD, 2-norm"])
    column = texts[head].index("Lipschitz")
    for number in (head + 1, head + 2):
        assert page.classes[number][column] & {"better", "worse"} == ({"worse"} if texts[number][0] == ONE else set())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"certificate_index": np.array([0, 10**6])}, "certificate_index is no list of numbers of"),
        ({"certificate_lipschitz": np.zeros(7)}, r"certificate_lipschitz of shape \(7,\) for 2 radii and 60 images"),
        ({"certificate_pgd": np.zeros((3, 60), int)}, r"certificate_pgd of shape \(3, 60\) for 2 radii"),
    ],
)
def test_arrays_that_do_not_fit(
    suite: None, arrays: dict[str, np.ndarray], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inject()
    path = place(BOTH, 0).with_suffix(".npz")
    npy.save_compressed(path, predictions(BOTH, 0) | images(BOTH, 0) | arrays)
    with pytest.raises(ValueError, match=said):
        Predictions.of(dict(np.load(path)), labels_of_test(), RADII)
    aggregate()
    assert re.search(rf"{re.escape(str(path))}: {said}.*; left out", capsys.readouterr().err)


def test_without_an_attack_or_with_other_radii(suite: None) -> None:
    inject()
    for seed in SEEDS:
        edit_metrics(place(ONE, seed), lambda metrics: [at.update(pgd=None) for at in metrics["certificates"]["at"]])
    edit_metrics(place(BOTH, 0), lambda metrics: metrics["certificates"]["at"].pop())
    aggregate()
    found = {(row["variant"], float(row["radius"])): row for row in rows("results/certified.csv")}
    assert "pgd, pgd_std: no attack was made" in found[ONE, 0.5]["missing"]
    values = [certificates(BOTH, seed)["at"][1]["lipschitz"] for seed in SEEDS[1:]]
    assert float(found[BOTH, 0.5]["lipschitz"]) == pytest.approx(statistics.mean(values), abs=1e-5)


def test_the_markdown_has_shares_in_percent_and_says_why(suite: None) -> None:
    inject()
    aggregate()
    text = Path("results/certified.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {TASK} | {ONE} | 0.5 |")]
    clean, pgd, lipschitz, curvature = line.removesuffix(" |").split(" | ")[3:]
    runs = [certificates(ONE, seed) for seed in SEEDS]
    for cell, values in (
        (clean, [run["clean"] for run in runs]),
        (pgd, [run["at"][1]["pgd"] for run in runs]),
        (lipschitz, [run["at"][1]["lipschitz"] for run in runs]),
    ):
        mean, spread = 100 * statistics.mean(values), 100 * statistics.stdev(values)
        assert cell == f"{mean:.2f} ± {spread:.2f}"
    mark = curvature.partition("(")[2].rstrip(")")
    assert f"({mark}) {WHY}" in text


def test_bounds_against_plain_sums(suite: None) -> None:
    inject()
    aggregate()
    found = rows("results/bounds.csv")
    assert [(row["variant"], row["place"], row["layer"], row["kernel"], row["tightest"]) for row in found] == [
        (variant, place, layer, kernel, tightest)
        for variant in (BOTH, ONE)
        for place, layer, kernel, tightest in (
            ("1", "conv", "3x3", "t"),
            ("2", "stages.0.0.conv1", "3x3", "grid"),
            ("3", "head", "linear", ""),
        )
    ]
    for row in found:
        each = [layers(row["variant"], seed)[int(row["place"]) - 1] for seed in SEEDS]
        for name in NAMES:
            values = [one[name] for one in each]
            if None in values:
                assert row[name] == row[f"{name}_std"] == ""
                assert f"{name}_std" in row["missing"]
                continue
            assert float(row[name]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{name}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-4)
    assert found[2]["missing"].endswith("tightest: a linear layer has its exact norm")


def test_the_page_shows_curves_bounds_and_a_table(suite: None) -> None:
    inject()
    aggregate()
    page = render(Path("build/tables"))
    assert page.count("<h3>Certified robustness</h3>") == 1
    shown = Page(page).table("Curvature")
    assert set(shown) == {BOTH, ONE}
    dash = "\N{EN DASH}"
    runs = [certificates(BOTH, seed)["at"][1] for seed in SEEDS]
    for cell, name in ((2, "pgd"), (4, "lipschitz"), (6, "curvature")):
        values = [100 * run[name] for run in runs]
        assert shown[BOTH][cell] == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert [cell[:1] for cell in shown[ONE][5:]] == [dash] * 2
    assert WHY in page
    assert "certified by Lipschitz constants (%)" in page
    assert "the grid with Riesz is tighter than the four bounds in 2 of 4" in page
    best = 100 * statistics.mean(certificates(BOTH, seed)["at"][0]["curvature"] for seed in SEEDS)
    assert f"{best:.1f} % certified by curvature ({BOTH})" in page


def test_where_it_was_not_measured_there_is_no_section(suite: None) -> None:
    aggregate()
    assert rows("results/certified.csv") == rows("results/bounds.csv") == []
    assert "No run was scored" in Path("results/certified.md").read_text(encoding="utf-8")
    page = render(Path("build/tables"))
    assert "Certified robustness" not in page
    assert "Certified accuracy" not in page
    assert "Bounds on convolutions" not in page
