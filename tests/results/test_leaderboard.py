"""The leaderboard, its Markdown and the metrics, against sums in plain Python."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from normbench.corruptions.constants import MAIN
from normbench.results.report import report
from normbench.results.tables import LEADERBOARD, aggregate
from normbench.results.tables.costs import ENDS, costs, speed_table
from normbench.runs.run import Kind
from normbench.system import files
from tests.results.made_up_suite import (
    OTHERS,
    SEEDS,
    TASK,
    VARIANTS,
    edit,
    edit_metrics,
    error_sums,
    finished,
    place,
    rows,
    write_suite,
)
from tests.results.page import Page
from tests.support.records import corrupted_images, record


def test_numbers_against_plain_sums(suite: None) -> None:
    aggregate()
    found = {row["variant"]: row for row in rows("results/leaderboard.csv")}
    assert list(found["batch_norm"]) == list(LEADERBOARD)
    assert set(found) == set(VARIANTS)
    baseline = error_sums("batch_norm")
    for variant, row in found.items():
        runs = finished(variant)
        assert (int(row["finished"]), int(row["diverged"])) == (len(runs), 3 - len(runs))
        assert (row["task"], row["method"], row["mce_corruptions"]) == (TASK, variant, "15")
        assert int(row["parameters"]) == VARIANTS[variant][3]
        assert float(row["peak_memory_mib"]) == pytest.approx(VARIANTS[variant][2], abs=0.006)
        if not runs:
            empty = ["clean_accuracy", "clean_accuracy_std", "corruption_accuracy", "corruption_accuracy_std"]
            assert [row[column] for column in [*empty, "mce"]] == [""] * 5
            continue
        clean = [run.metrics["clean_accuracy"] for run in runs]
        corrupted = [sum(map(sum, run.metrics["corruption_accuracy"].values())) / (19 * 5) for run in runs]
        own = error_sums(variant)
        mce = 100 * sum(own[name] / baseline[name] for name in MAIN) / 15
        assert float(row["clean_accuracy"]) == pytest.approx(statistics.mean(clean), abs=6e-6)
        assert float(row["clean_accuracy_std"]) == pytest.approx(statistics.stdev(clean), abs=6e-6)
        assert float(row["corruption_accuracy"]) == pytest.approx(statistics.mean(corrupted), abs=6e-6)
        assert float(row["corruption_accuracy_std"]) == pytest.approx(statistics.stdev(corrupted), abs=6e-6)
        assert float(row["mce"]) == pytest.approx(mce, abs=6e-4)
        speeds = [run.cost.images_per_second for run in runs]
        timed = next(
            row
            for row in rows("build/tables/speeds.csv")
            if (row["kind"], row["variant"]) == ("classification", variant)
        )
        assert float(timed["images_per_second"]) == pytest.approx(statistics.median(speeds), abs=0.06)
        seconds = [sum(run.cost.seconds.values()) for run in runs]
        assert float(timed["seconds"]) == pytest.approx(statistics.mean(seconds), abs=6e-3)


def test_it_is_ordered_by_accuracy_with_the_unfinished_last(suite: None) -> None:
    aggregate()
    order = [row["variant"] for row in rows("results/leaderboard.csv")]
    accuracy = {v: statistics.mean(run.metrics["clean_accuracy"] for run in finished(v)) for v in order[:-1]}
    assert order[-1] == "spectral_norm"
    assert order[:-1] == sorted(accuracy, key=lambda variant: -accuracy[variant])


def speed(records: list[Any]) -> dict[str, Any]:
    """The row of a variant's speed, which is its own baseline."""
    (row,) = speed_table({Kind.CLASSIFICATION: {("t", "v"): records}}, "v").rows
    return row


def test_costs_are_of_runs_that_had_the_machine_to_themselves() -> None:
    def runs(*beside: int) -> list[Any]:
        shared = [{"device": {"side_by_side": count}} for count in beside]
        speeds = (10.0, 20.0, 60.0)
        return [
            record(
                cost={"images_per_second": speed, "seconds": {"train": 100 / speed, "compile": speed}}, provenance=each
            )
            for speed, each in zip(speeds, shared, strict=True)
        ]

    found = speed(runs(2, 1, 4))
    assert (found["images_per_second"], found["side_by_side"]) == (20.0, 1)
    assert (found["seconds"], found["compile_seconds"]) == (5.0 + 20.0, 20.0)
    found = speed(runs(2, 2, 4))
    assert (found["images_per_second"], found["side_by_side"], found["compile_seconds"]) == (20.0, 4, 30.0)


def test_memory_and_parameters_use_all_runs_and_speed_and_time_finished_ones() -> None:
    runs = [
        record(cost={"images_per_second": 100.0, "peak_memory_bytes": 2 * 2**20, "seconds": {"train": 4.0}}),
        record(
            status="diverged",
            cost={"images_per_second": 900.0, "peak_memory_bytes": 3 * 2**20, "seconds": {"train": 0.5}},
        ),
    ]
    found = costs(runs)
    assert (found["peak_memory_mib"], found["parameters"]) == (3.0, 77_530)
    assert [found[name] for name in ENDS] == [2, 1, 1, 1, 0]
    assert (speed(runs)["images_per_second"], speed(runs)["seconds"]) == (100.0, 4.0)


def test_a_run_without_a_speed_leaves_it_to_the_others() -> None:
    speeds = (None, 100.0, 300.0)
    assert speed([record(cost={"images_per_second": s}) for s in speeds])["images_per_second"] == 200.0
    untimed = speed([record(cost={"images_per_second": None})])
    assert math.isnan(untimed["images_per_second"])
    assert untimed["missing"].startswith("no finished run was timed")


def test_speeds_are_compared_where_they_were_timed_alone_on_like_machines() -> None:
    def ratio(*devices: dict[str, Any]) -> tuple[float, str]:
        runs = {
            ("t", name): [record(cost={"images_per_second": value}, provenance={"device": device})] * 3
            for (name, value), device in zip({"b": 100.0, "v": 150.0}.items(), devices, strict=True)
        }
        row = speed_table({Kind.CLASSIFICATION: runs}, "b").rows[1]
        return row["ratio"], row["missing"]

    assert ratio({}, {}) == (1.5, "")
    value, why = ratio({"side_by_side": 2}, {})
    assert math.isnan(value)
    assert why == "up to 2 runs shared the machine while they were timed"
    value, why = ratio({"cpu": "another"}, {})
    assert math.isnan(value)
    assert why == "timed on different machines"
    assert math.isnan(speed_table({Kind.CLASSIFICATION: {("t", "v"): [record()]}}, "b").rows[0]["ratio"])


def test_mce_is_over_the_main_corruptions_that_were_run_and_the_chosen_severities(suite: None) -> None:
    names, severities = ["fog", "spatter", "gaussian_noise"], [2, 5]
    files.write_json("build/resolved/corruptions.json", {"names": names, "severities": severities, **OTHERS})
    for variant in VARIANTS:
        for run in finished(variant):
            path, accuracy = place(variant, run.seed), run.metrics["corruption_accuracy"]
            kept = {name: [accuracy[name][1], accuracy[name][4]] for name in sorted(names)}
            metrics = run.metrics | {"corruption_accuracy": kept}
            edit(path, metrics=metrics, provenance={"corrupted": corrupted_images(names, severities)})
    aggregate()
    row = next(row for row in rows("results/leaderboard.csv") if row["variant"] == "conv_norm")

    def error(variant: str, name: str) -> float:
        runs = [run.metrics["corruption_accuracy"][name] for run in finished(variant)]
        return sum(2 - a[1] - a[4] for a in runs) / len(runs)

    ratios = [error("conv_norm", name) / error("batch_norm", name) for name in ("fog", "gaussian_noise")]
    assert float(row["mce"]) == pytest.approx(100 * statistics.mean(ratios), abs=6e-4)
    assert row["mce_corruptions"] == "2"
    assert "2 of the 15" in Path("results/leaderboard.md").read_text(encoding="utf-8")
    grid = rows("results/corruptions.csv")
    assert list(grid[0]) == ["task", "variant", "corruption", "severity_2", "severity_5", "mean", "missing"]


def test_no_mce_without_a_finished_baseline(suite: None) -> None:
    write_suite(baseline="spectral_norm")
    aggregate()
    assert {row["mce"] for row in rows("results/leaderboard.csv")} == {""}


def test_no_mce_with_a_baseline_that_makes_no_error(suite: None) -> None:
    for seed in SEEDS:
        edit_metrics(place("batch_norm", seed), lambda metrics: metrics["corruption_accuracy"].update(fog=[1.0] * 5))
    aggregate()
    assert {row["mce"] for row in rows("results/leaderboard.csv")} == {""}


def test_one_seed_has_no_spread(suite: None) -> None:
    write_suite(seeds=[2], variants=["batch_norm", "network_deconvolution", "spectral_norm"])
    aggregate()
    for row in rows("results/leaderboard.csv"):
        assert row["clean_accuracy_std"] == row["corruption_accuracy_std"] == ""
    assert " ± 0" not in Path("results/leaderboard.md").read_text(encoding="utf-8")
    report()
    found = Page(Path("results/report.html").read_text(encoding="utf-8"))
    assert not any("leads" in classes for row in found.classes for classes in row)
