"""The comparisons of the made-up suite: the pairs, their outcomes by hand, verdicts in both directions, and gaps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normbench.comparison.paired import paired
from normbench.corruptions.constants import GROUPS, MAIN
from normbench.results.tables import aggregate
from normbench.results.tables.comparisons import Scored, _table, against, comparisons
from normbench.results.tables.outcomes import Predictions
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.system import npy
from tests.results.made_up_suite import (
    DIVERGED,
    FID,
    IMAGES,
    NAMES,
    SEEDS,
    TASK,
    VARIANTS,
    edit_metrics,
    gan_record,
    labels_of_test,
    place,
    predictions,
    rows,
)


def comparison(measure: str, variant: str, other: str) -> dict[str, str]:
    found = [
        row
        for row in rows("results/comparisons.csv")
        if (row["measure"], row["variant"], row["other"]) == (measure, variant, other)
    ]
    assert len(found) == 1
    return found[0]


def right(variant: str) -> np.ndarray:
    """By hand: (seeds, images), 1 where the prediction for a clean image is right."""
    return np.array([predictions(variant, seed)["clean"] == labels_of_test() for seed in SEEDS], float)


def test_every_pair_has_a_row_for_every_measure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = rows("results/comparisons.csv")
    measures = [
        "clean_accuracy",
        "corruption_accuracy",
        *(f"corruption_{group}" for group in GROUPS),
        "attack_fgsm",
        "attack_pgd",
    ]
    pairs = list(itertools.combinations(VARIANTS, 2))
    expected = [(measure, *pair) for measure in measures for pair in pairs] + [
        ("fid", "batch_norm", "spectral_norm_alone")
    ]
    assert [(row["measure"], row["variant"], row["other"]) for row in found] == expected


def test_a_difference_is_that_of_the_paired_predictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    row = comparison("clean_accuracy", "batch_norm", "network_deconvolution")
    expected = paired(right("batch_norm"), right("network_deconvolution"))
    assert (row["seeds"], row["examples"]) == ("3", str(IMAGES))
    for name in ("low", "high", "p"):
        assert float(row[name]) == pytest.approx(getattr(expected, name), abs=1e-5)
    assert float(row["difference"]) == pytest.approx(expected.mean, abs=1e-5)
    assert float(row["p_seeds"]) >= 0.25
    assert row["missing"] == ""


def test_verdicts_are_adjusted_over_the_pairs_with_three_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holm by hand, over the pairs of the variants of which all three runs finished."""
    monkeypatch.chdir(folder)
    whole = [name for name in VARIANTS if not any((name, seed) in DIVERGED for seed in SEEDS)]
    found = [comparison("clean_accuracy", *pair) for pair in itertools.combinations(whole, 2)]
    strict = [paired(right(row["variant"]), right(row["other"])).strict_p for row in found]
    largest = 0.0
    for done, (p, row) in enumerate(sorted(zip(strict, found, strict=True), key=lambda pair: pair[0])):
        assert p >= float(row["p"]) - 1e-5
        largest = max(largest, min(1, (len(found) - done) * p))
        assert float(row["p_holm"]) == pytest.approx(largest, abs=1e-3)
        sign = "better" if float(row["difference"]) > 0 else "worse"
        assert row["verdict"] == (sign if float(row["p_holm"]) < 0.05 else "indistinguishable")
    assert {row["verdict"] for row in found} > {"indistinguishable"}
    assert {row["task"] for row in found} == {TASK}


def test_fewer_than_three_seeds_have_no_verdict(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    two = comparison("clean_accuracy", "batch_norm", "no_norm")  # of which one run diverged
    assert (two["seeds"], two["verdict"], two["p_holm"]) == ("2", "", "")
    assert two["missing"] == "verdict: 2 seeds in common, and a verdict needs 3"
    assert float(two["low"]) < float(two["difference"]) < float(two["high"])
    none = comparison("clean_accuracy", "batch_norm", "spectral_norm")
    assert (none["seeds"], none["difference"], none["missing"]) == ("0", "", "no seed of which both runs finished")


def test_an_effect_above_100_points_is_none() -> None:
    """One seed that learns and two that do not, beside three that do: no difference would have been shown."""
    lucky = {seed: {"clean_accuracy": np.full(40, float(seed == 0))} for seed in SEEDS}
    steady = {seed: {"clean_accuracy": (np.arange(40) % 10 > 0) * 1.0} for seed in SEEDS}
    usual = {seed: {"clean_accuracy": (np.arange(40) % 10 > seed) * 1.0} for seed in SEEDS}
    variants = {name: Scored(found) for name, found in (("lucky", lucky), ("steady", steady), ("usual", usual))}
    rows = {(row["variant"], row["other"]): row for row in _table(Kind.CLASSIFICATION, "t", "clean_accuracy", variants)}
    far, near = rows["lucky", "steady"], rows["steady", "usual"]
    assert far["verdict"] == near["verdict"] == "indistinguishable"
    assert math.isnan(far["smallest_effect"])
    assert far["missing"] == "smallest_effect: above 100 points"
    assert 0 < near["smallest_effect"] <= 1
    assert near["missing"] == ""


def test_a_lower_fid_is_better() -> None:
    """Two variants of three seeds, and a third of which two finished."""
    made = {name: [gan_record("spectral_norm_alone", seed) for seed in range(3)] for name in ("one", "two")}
    for number, record in enumerate(made["one"] + made["two"]):
        record.metrics["fid"] = 10 + 0.1 * number**2 + (20 if number > 2 else 0)
    runs = {("gan", name): records for name, records in made.items()} | {("gan", "three"): made["one"][:2]}
    found = comparisons({Kind.GAN: runs}, {})
    assert [(row["variant"], row["other"], row["verdict"]) for row in found.rows] == [
        ("one", "two", "better"),
        ("one", "three", ""),
        ("two", "three", ""),
    ]
    assert found.rows[0]["difference"] == pytest.approx(-20 - (9 + 16 + 25 - 5) / 30)
    assert against(found, Kind.GAN, "fid", "one") == {("gan", "two"): "worse", ("gan", "three"): ""}


def test_the_leaderboard_has_the_verdicts_on_its_baseline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for row in rows("results/leaderboard.csv"):
        if row["variant"] == "batch_norm":
            assert row["clean_verdict"] == row["corruption_verdict"] == ""
            continue
        flipped = {"better": "worse", "worse": "better"}
        verdict = comparison("clean_accuracy", "batch_norm", row["variant"])["verdict"]
        assert row["clean_verdict"] == flipped.get(verdict, verdict)
    assert any(row["clean_verdict"] not in ("", "indistinguishable") for row in rows("results/leaderboard.csv"))


def test_agreement_and_classes_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    a, b = right("batch_norm"), right("conv_norm")
    row = next(
        row
        for row in rows("build/tables/agreement.csv")
        if (row["variant"], row["other"]) == ("batch_norm", "conv_norm")
    )
    expected = [(a * b).mean(), (a * (1 - b)).mean(), ((1 - a) * b).mean(), ((1 - a) * (1 - b)).mean()]
    found = [float(row[name]) for name in ("both_right", "only_first", "only_second", "both_wrong")]
    assert found == pytest.approx(expected, abs=1e-5)
    own = [row for row in rows("build/tables/classes.csv") if row["variant"] == "batch_norm"]
    assert [row["class"] for row in own] == [str(label) for label in range(10)]
    for label, row in enumerate(own):
        assert float(row["accuracy"]) == pytest.approx(a[:, labels_of_test() == label].mean(), abs=1e-5)


def test_outcomes_of_a_run() -> None:
    """Two images under two corruptions and one severity, by hand."""
    labels = np.array([3, 1, 2])
    stored = {
        "names": np.array(["gaussian_noise", "fog"]),
        "severities": np.array([5]),
        "index": np.array([0, 2]),
        "clean": np.array([3, 1, 0]),
        "corrupted": np.array([[[3, 2]], [[0, 2]]]),
        "attack_index": np.array([2, 1]),
        "attack_pgd": np.array([2, 0]),
        "attack_pgd_long": np.array([1]),
    }
    found = Predictions.of(stored, labels).outcomes()
    assert {name: values.tolist() for name, values in found.items()} == {
        "clean_accuracy": [1, 1, 0],
        "corruption_accuracy": [0.5, 1],
        "corruption_noise": [1, 1],
        "corruption_weather": [0, 1],
        "attack_pgd": [1, 0],
        "attack_pgd_long": [0],
    }
    with pytest.raises(ValueError, match="for \\(2,\\) labels"):
        Predictions.of(stored, labels[:2])
    assert set(GROUPS["extra"]).isdisjoint(MAIN)
    assert sorted(itertools.chain(*GROUPS.values())) == sorted(NAMES)


@pytest.mark.usefixtures("suite")
def test_predictions_that_are_missing_or_of_other_images_are_said() -> None:
    place("conv_norm", 1).with_suffix(".npz").unlink()
    for seed in SEEDS:
        path = place("group_norm", seed).with_suffix(".npz")
        npy.save_compressed(
            path,
            predictions("group_norm", seed)
            | {"attack_index": np.arange(20), "attack_fgsm": np.zeros(20), "attack_pgd": np.zeros(20)},
        )
    aggregate()
    row = comparison("clean_accuracy", "batch_norm", "conv_norm")
    assert (row["seeds"], row["missing"]) == ("2", "verdict: 2 seeds in common, and a verdict needs 3")
    row = comparison("attack_pgd", "batch_norm", "group_norm")
    assert (row["difference"], row["missing"]) == ("", "scored on different examples")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def with_array(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        npy.save_compressed(path, predictions("conv_norm", 1) | {name: value})

    return write


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "no such file"),
    "truncated": (truncated, ".*npz"),
    "index": (with_array("index", np.arange(IMAGES, IMAGES + 120)), f"index has other numbers than those of {IMAGES}"),
    "names": (with_array("names", np.array("fog")), "names is no list"),
    "attack_index": (with_array("attack_index", np.full(50, 0.5)), "attack_index has other numbers"),
    "attack_pgd": (with_array("attack_pgd", np.zeros((5, 5))), "attack_pgd is no list"),
    "clean": (with_array("clean", np.zeros(7)), "predictions of shapes"),
}


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("damage", DAMAGE)
def test_predictions_that_cannot_be_used_are_named_and_left_out(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place("conv_norm", 1).with_suffix(".npz")
    change, why = DAMAGE[damage]
    change(path)
    aggregate()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"{re.escape(str(path))}: {why}.*; left out", line)
    assert comparison("clean_accuracy", "batch_norm", "conv_norm")["seeds"] == "2"
    assert comparison("clean_accuracy", "batch_norm", "no_norm")["difference"] != ""


@pytest.mark.usefixtures("suite")
def test_collapsed_runs_count_as_failed_and_are_left_out_of_means() -> None:
    edit_metrics(place("conv_norm", 1), lambda metrics: metrics.update(collapsed=True))
    aggregate()
    row = next(row for row in rows("results/leaderboard.csv") if row["variant"] == "conv_norm")
    assert [row[name] for name in ("runs", "finished", "failed", "diverged", "collapsed")] == ["3", "2", "1", "0", "1"]
    others = [Record.read(place("conv_norm", seed)).metrics["clean_accuracy"] for seed in (0, 2)]
    assert float(row["clean_accuracy"]) == pytest.approx(np.mean(others), abs=1e-5)
    statuses = {(row["variant"], row["seed"]): row["status"] for row in rows("results/runs.csv")}
    assert statuses["conv_norm", "1"] == "collapsed"
    assert statuses["no_norm", "1"] == "diverged"
    assert comparison("clean_accuracy", "batch_norm", "conv_norm")["seeds"] == "2"


@pytest.mark.usefixtures("suite")
def test_one_task_has_no_table_across_tasks() -> None:
    aggregate()
    assert rows("results/overall.csv") == []


def test_runs_have_a_row_each_and_times_stand_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    runs, costs = rows("results/runs.csv"), rows("results/costs.csv")
    assert len(runs) == len(costs) == len(VARIANTS) * len(SEEDS) + len(FID) * len(SEEDS)
    assert [row["run"] for row in runs] == [row["run"] for row in costs]
    record = Record.read(place("group_norm", 2))
    row = next(row for row in runs if (row["variant"], row["seed"]) == ("group_norm", "2"))
    assert float(row["clean_accuracy"]) == pytest.approx(record.metrics["clean_accuracy"], abs=1e-5)
    assert row["device"] == record.provenance.device.name
    timed = {"seconds", "images_per_second", "iterations_per_second", "compile_seconds", "side_by_side"}
    for name in ("runs", "leaderboard", "gan", "comparisons", "robustness"):
        assert timed.isdisjoint(rows(f"results/{name}.csv")[0])
    assert timed < set(costs[0])
