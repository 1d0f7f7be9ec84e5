"""results/robustness.csv against sums in plain Python."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import pytest

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.means import Runs
from normbench.results.tables.robustness import BUILT_IN, robustness_table
from tests.results.made_up_suite import MAIN, NAMES, SEEDS, VARIANTS, edit_metrics, finished, place, rows
from tests.results.page import Page
from tests.support.records import record

BATCH = {"batch_clean_accuracy": 0.97, "batch_corruption_accuracy": 0.5}
CORRUPTIONS = Corruptions(names=["fog", "spatter"], severities=[1, 2])


def scored(seed: int, columns: dict[str, float], **metrics: Any) -> Any:
    """A record with two corruptions, of which spatter is not a main one."""
    accuracies = {"fog": [0.8, 0.6], "spatter": [0.1, 0.1]}
    return record(
        "t", seed=seed, metrics={"clean_accuracy": 0.9, "corruption_accuracy": accuracies, "columns": columns} | metrics
    )


def table(runs: Runs) -> tuple[list[str], list[dict[str, str]]]:
    """Its header, and its rows as text."""
    header, *lines = csv.reader(io.StringIO(robustness_table(runs, "a", CORRUPTIONS).csv()))
    return header, [dict(zip(header, line, strict=True)) for line in lines]


def test_means_over_finished_runs_and_the_columns_of_the_report(suite: None) -> None:
    """A variant without batch statistics has no number there; a warning is counted and told."""
    for variant in ("batch_norm", "group_norm"):
        for seed in SEEDS:
            columns = {"nll": 0.5 + seed, "ece": 0.04, "attack_examples": 50, "attack_clean": 0.9, "attack_pgd": 0.2}
            found: dict[str, Any] = {"attacks": {"warning": "FGSM leaves more"}}
            if variant == "batch_norm":
                half = {name: [0.5] * 5 for name in NAMES}
                found["batch_statistics"] = {"prior": 16, "clean_accuracy": 0.97, "corruption_accuracy": half}
                columns |= {**BATCH, "auto_attack_examples": 20, "auto_attack": 0.1 + 0.01 * seed}
            found["columns"] = columns
            edit_metrics(place(variant, seed), lambda metrics, found=found: metrics.update(found))
    aggregate()
    table = {row["variant"]: row for row in rows("results/robustness.csv")}
    assert set(table) == set(VARIANTS)
    row, without = table["batch_norm"], table["group_norm"]
    assert float(row["nll"]) == pytest.approx(0.5 + statistics.mean(SEEDS), abs=1e-5)
    assert (row["batch_corruption_accuracy"], row["batch_clean_accuracy"]) == ("0.50000", "0.97000")
    assert (row["attack_examples"], row["attack_pgd"], row["auto_attack_examples"]) == ("50", "0.20000", "20")
    assert float(row["auto_attack"]) == pytest.approx(0.1 + 0.01 * statistics.mean(SEEDS), abs=1e-5)
    assert {without[name] for name in (*BATCH, "batch_mce", "auto_attack", "auto_attack_examples")} == {""}
    assert (row["warnings"], table["conv_norm"]["warnings"], table["conv_norm"]["nll"]) == ("3", "0", "")
    # Relative mCE of the baseline against itself is 100; its mCE with half of all images wrong is far above.
    assert float(row["relative_mce"]) == pytest.approx(100)
    errors = [sum(1 - a for run in finished("batch_norm") for a in run.metrics["corruption_accuracy"][n]) for n in MAIN]
    assert float(row["batch_mce"]) == pytest.approx(statistics.mean(100 * 5 * 0.5 * 3 / e for e in errors), rel=1e-5)
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert "Calibration and robustness" in page
    assert "cannot be trusted: batch_norm, group_norm" in page
    assert "<span>AutoAttack</span> <small>" in page


def test_relative_mce_against_plain_arithmetic(suite: None) -> None:
    """The errors of a corruption, less the clean error at each of five severities, over those of the baseline."""
    aggregate()
    found = {row["variant"]: row for row in rows("results/robustness.csv")}

    def added(variant: str, name: str) -> float:
        runs = [run.metrics for run in finished(variant)]
        clean = statistics.mean(1 - run["clean_accuracy"] for run in runs)
        return statistics.mean(sum(1 - a for a in run["corruption_accuracy"][name]) for run in runs) - 5 * clean

    for variant in ("network_deconvolution", "no_norm"):
        ratios = [added(variant, name) / added("batch_norm", name) for name in MAIN]
        assert float(found[variant]["relative_mce"]) == pytest.approx(100 * statistics.mean(ratios), abs=6e-4)
    assert found["spectral_norm"]["relative_mce"] == ""


def test_columns_are_those_that_records_have_the_built_in_ones_first() -> None:
    """Records keep their keys sorted, so the order of the built-in columns is the table's own."""
    one = scored(0, {"zeal": 0.25, "attack_clean": 0.5, "ece": 0.1, "batch_clean_accuracy": 0.75})
    other = scored(0, {"age": 0.5, "auto_attack": 0.1, "nll": 2.0, "attack_examples": 30})
    header, _ = table({("t", "a"): [one], ("t", "b"): [other]})
    assert header == [
        "task",
        "variant",
        "relative_mce",
        "nll",
        "ece",
        "batch_clean_accuracy",
        "attack_examples",
        "attack_clean",
        "auto_attack",
        "zeal",
        "age",
        "batch_mce",
        "warnings",
        "missing",
    ]
    assert [name for name in header if name in BUILT_IN] == [name for name in BUILT_IN if name in header]


def test_a_score_of_ones_own_reaches_table_and_report(suite: None) -> None:
    """Whole numbers are counts, and all others have five digits; a mean is over the runs that have the number."""
    for seed, columns in enumerate(({"gap": 0.25, "gap_images": 40}, {"gap": 0.5, "gap_images": 40}, {})):
        edit_metrics(place("conv_norm", seed), lambda metrics, columns=columns: metrics.update(columns=columns))
    aggregate()
    found = {row["variant"]: row for row in rows("results/robustness.csv")}
    assert (found["conv_norm"]["gap"], found["conv_norm"]["gap_images"]) == ("0.37500", "40")
    assert found["batch_norm"]["gap"] == found["batch_norm"]["gap_images"] == ""
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert Page(page).table("gap")["conv_norm"][-2:] == ["0.375 ± 0.1768", "40 ± 0"]


def test_a_column_is_a_count_only_where_all_its_values_are_whole() -> None:
    runs = {("t", "a"): [scored(0, {"x": 1, "y": 3}), scored(1, {"x": 0.5, "y": 4})]}
    _, (row,) = table(runs)
    assert (row["x"], row["y"]) == ("0.75000", "4")  # 3.5 is rounded to an even number
    whole = {("t", "a"): [scored(0, {"x": 1.0})]}
    assert table(whole)[1][0]["x"] == "1.00000"


def test_without_measurements_the_report_shows_what_follows_from_accuracies(page: str) -> None:
    assert page.count("<h3>Calibration and robustness</h3>") == 1
    assert "<span>Relative mCE</span> <small>" in page
    assert "<small>clean, %</small>" not in page
