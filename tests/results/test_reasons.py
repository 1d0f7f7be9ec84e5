"""A cell without a number says why, in the table and under it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.gan import gan_table
from normbench.results.tables.leaderboard import leaderboard
from normbench.results.tables.marks import Marks
from normbench.results.tables.means import Runs
from normbench.results.tables.robustness import robustness_table
from normbench.results.tables.smoothness import feature_table, layer_table, smoothness_table
from normbench.results.tables.table import Table
from tests.results.made_up_suite import DIVERGED as SOME_DIVERGED
from tests.results.made_up_suite import (
    SEEDS,
    UNBOUNDED,
    UNMEASURED,
    VARIANTS,
    edit,
    edit_metrics,
    place,
    rows,
    smoothness,
    write_suite,
)
from tests.results.page import Page
from tests.support.records import record

TABLES = ("leaderboard", "gan", "robustness", "corruptions", "smoothness", "layers", "features", "filters")
CORRUPTIONS = Corruptions(names=["fog", "spatter"], severities=[1, 2])
ON = {"corrupted_examples": None, "attacks": {}, "batch_statistics": {}, "certificates": {}}
ON |= {"filters": {}, "smoothness": {}}


def explained(name: str) -> int:
    """Asserts that each empty cell of a table in results/ has its reason, and no other cell has; returns their number."""
    count = 0
    for row in rows(f"results/{name}.csv"):
        groups = [group.partition(": ")[::2] for group in re.split(r"; (?=[\w, ]+: )", row.get("missing", "")) if group]
        said = {column: reason for columns, reason in groups for column in columns.split(", ")}
        numbers = {
            column: text for column, text in row.items() if not column.endswith("_verdict")
        }  # comparisons say why
        empty = {column for column, text in numbers.items() if text == "" and column not in ("no_bound", "missing")}
        assert said.keys() & row.keys() == empty, (name, row)  # a column that is left out has its reason too
        assert all(said.values())
        count += len(empty)
    return count


def test_every_empty_cell_of_every_table_has_a_reason(suite: None) -> None:
    for variant in list(VARIANTS)[:3]:
        for seed in SEEDS:
            columns = {"nll": 0.5} if variant != "no_norm" else {"attack_clean": 0.5, "own": 1.5}
            if (variant, seed) not in SOME_DIVERGED:
                edit_metrics(place(variant, seed), lambda metrics, columns=columns: metrics.update(columns=columns))
    edit(place("conv_norm", 0), status="diverged", diverged={"epoch": 0, "step": 1}, metrics={"history": []})
    edit(place("conv_norm", 1), status="diverged", diverged={"epoch": 0, "step": 1}, metrics={"history": []})
    aggregate()
    assert {name: explained(name) > 0 for name in TABLES} == dict.fromkeys(TABLES, True) | {
        "gan": False,
        "features": False,
        "filters": False,
    }
    write_suite(seeds=[0])
    aggregate()
    # Of one seed no features have a spread, and a column that is empty in every row is left out.
    unspread = dict.fromkeys(("features", "filters"), False)
    assert {name: explained(name) > 0 for name in TABLES} == dict.fromkeys(TABLES, True) | unspread


def run(columns: dict[str, float] | None = None, metrics: dict[str, Any] | None = None, **changes: Any) -> Any:
    found = {"clean_accuracy": 0.9, "corruption_accuracy": {"fog": [0.8, 0.6], "spatter": [0.1, 0.1]}}
    changed = {"provenance": {"evaluation": ON}} | changes
    return record("t", metrics=found | {"columns": columns or {}} | (metrics or {}), **changed)


def why(table: Table, variant: str = "v") -> dict[str, str]:
    (row,) = [row for row in table.rows if row["variant"] == variant]
    return row["why"]


NO_COMPARISONS = Table({}, [])


def boards(runs: Runs, baseline: str | None = "b", corruptions: Corruptions = CORRUPTIONS) -> dict[str, str]:
    return why(robustness_table(runs, baseline, corruptions)) | why(
        leaderboard(runs, baseline, corruptions, NO_COMPARISONS)
    )


DIVERGED: dict[str, Any] = {"status": "diverged", "cost": {"images_per_second": None}}


def bad() -> Any:
    return record("t", **DIVERGED)


@pytest.mark.parametrize(
    ("runs", "column", "reason"),
    [
        ([bad()], "clean_accuracy", "the run diverged"),
        ([bad(), bad()], "mce", "all 2 runs diverged"),
        ([bad(), bad()], "relative_mce", "all 2 runs diverged"),
        ([bad(), bad()], "nll", "all 2 runs diverged"),
        ([run(metrics={"collapsed": True})], "nll", "the run collapsed"),
        ([run(metrics={"collapsed": True}), bad()], "nll", "all 2 runs collapsed or diverged"),
        ([run()], "clean_accuracy_std", "one seed has no spread"),
        ([run(), bad(), bad()], "corruption_accuracy_std", "1 of 3 runs finished, and one run has no spread"),
        ([run()], "attack_pgd", "no finished run was scored with it"),
        ([run(provenance={"evaluation": {}})], "attack_pgd", "`attacks` is off in `evaluation`"),
        ([run(provenance={"evaluation": {}})], "auto_attack", "`attacks` is off in `evaluation`"),
        ([run(provenance={"evaluation": {}})], "batch_mce", "`batch_statistics` is off in `evaluation`"),
        ([run(provenance={"evaluation": {}})], "own", "no finished run was scored with it"),
        (
            [run(metrics={"missing": {"batch_corruption_accuracy": "no layer has any"}})],
            "batch_mce",
            "no layer has any",
        ),
        ([run(metrics={"missing": {"own": "needs 3 classes"}})], "own", "needs 3 classes"),
    ],
)
def test_reasons(runs: list[Any], column: str, reason: str) -> None:
    everything = {"nll": 0.5, "attack_pgd": 0.5, "auto_attack": 0.1, "batch_corruption_accuracy": 0.5, "own": 0.25}
    found = boards({("t", "b"): [run(everything), run(everything)], ("t", "v"): runs})
    assert found[column].startswith(reason)


@pytest.mark.parametrize(
    ("baseline", "runs", "corruptions", "reason"),
    [
        (None, [run()], CORRUPTIONS, "`suite` has no baseline"),
        ("b", [bad(), bad()], CORRUPTIONS, "no run of the baseline b finished"),
        ("b", [run()], Corruptions(names=["spatter"], severities=[1, 2]), "`corruptions` has none of the 15"),
        (
            "b",
            [run(metrics={"corruption_accuracy": {"fog": [1.0, 1.0]}})],
            Corruptions(names=["fog"], severities=[1, 2]),
            "the baseline b makes no error under fog",
        ),
    ],
    ids=["none", "diverged", "other corruptions", "no error"],
)
def test_why_there_is_no_mce(baseline: str | None, runs: list[Any], corruptions: Corruptions, reason: str) -> None:
    found = boards({("t", "b"): runs, ("t", "v"): [run(), run()]}, baseline, corruptions)
    assert found["mce"].startswith(reason)
    assert found["relative_mce"].startswith(reason.replace("no error", "no more errors than on clean images"))


def test_the_relative_mce_of_a_baseline_that_corruption_does_not_harm() -> None:
    better = run(metrics={"corruption_accuracy": {"fog": [0.95, 0.95], "spatter": [0.1, 0.1]}})
    found = boards({("t", "b"): [better, better], ("t", "v"): [run(), run()]})
    assert found == {
        "relative_mce": "the baseline b makes no more errors than on clean images under fog",
        "batch_mce": "no finished run was scored with it",
    }


def test_networks_layers_and_feature_maps() -> None:
    def measured(variant: str, **changed: Any) -> Any:
        maps = {"initial": [{"rms": None, "max": 1.0, "mean": 1.0, "low": 0.0, "middle": 0.0, "high": 0.0}]}
        maps["trained"] = maps["initial"]
        return run(metrics={"smoothness": smoothness(variant, 0) | changed, "features": maps})

    runs = {
        ("t", "v"): [measured(UNBOUNDED), measured(UNBOUNDED)],
        ("t", "zero"): [
            measured("batch_norm", bound=0.0, certified={}),
            measured("batch_norm", bound=0.0, certified={}),
        ],
        ("t", "off"): [run(provenance={"evaluation": {}})],
        ("t", "one"): [measured("batch_norm")],
        ("t", "filter"): [measured("network_deconvolution"), measured("network_deconvolution")],
    }
    table = smoothness_table(runs)
    assert set(why(table).values()) == {"no Lipschitz constant is known for GroupNorm"}
    assert "lipschitz_bound" in why(table)
    assert "lipschitz_local" not in why(table)
    assert why(table, "zero")["certified_8"].startswith("the bound is 0")
    assert set(why(table, "off").values()) == {"`smoothness` is off in `evaluation`"}
    assert why(table, "one") == {name: "one seed has no spread" for name in table.columns if name.endswith("_std")}
    layers = {(row["variant"], row["place"]): row["why"] for row in layer_table(runs).rows}
    assert layers["filter", 1] == dict.fromkeys(("estimate", "estimate_std"), "not computed for a layer of this kind")
    spreads = [f"{name}_std" for name in ("bound", "estimate", "spectrum_low", "spectrum_high")]
    assert layers["one", 1] == dict.fromkeys(spreads, "one seed has no spread")
    maps = feature_table({("t", "v"): runs["t", "v"]}).rows[0]["why"]
    assert maps == dict.fromkeys(("rms", "rms_std"), "the feature maps are not finite")


def test_gans() -> None:
    good = record("t", "v", kind="gan", metrics={"fid": 3.0})
    broken = record("t", "w", kind="gan", status="diverged", metrics={})
    table = gan_table({("t", "v"): [good], ("t", "w"): [broken, broken]}, None, NO_COMPARISONS)
    assert why(table) == {"fid_std": "one seed has no spread"}
    assert why(table, "w")["fid"] == "all 2 runs diverged"


def test_marks() -> None:
    marks = Marks([{"x": "r", "y_std": "s"}, {"z": "r"}, {"hidden": "t"}], ["x", "y", "z"])
    assert marks.reasons() == [("a", "r"), ("b", "s")]
    assert [marks.of({"x": "r", "y_std": "s"}, name) for name in ("x", "y", "z")] == ["a", "b", ""]
    many = Marks([{str(number): f"reason {number}" for number in range(30)}])
    assert [mark for mark, _ in many.reasons()][-4:] == ["aa", "ab", "ac", "ad"]


def marked(page: str, beside: Callable[[str], bool]) -> list[str]:
    """The reasons under the tables of the page that meet a condition."""
    found = re.findall(r'<small class="mark">\w+</small> ([^<]+?)\. ?(?=<|$)', page)
    return [reason for reason in found if beside(reason)]


def test_the_page_says_why_under_each_table(suite: None) -> None:
    for seed in SEEDS:
        edit(place(UNMEASURED, seed), provenance={"evaluation": {"corrupted_examples": None}})
        edit_metrics(place("batch_norm", seed), lambda metrics: metrics.update(columns={"attack_pgd": 0.5}))
    aggregate()
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    Page(page)
    assert len(marked(page, lambda reason: reason == "all 3 runs diverged")) == 3  # under three tables of the task
    assert marked(page, lambda reason: reason == "no Lipschitz constant is known for GroupNorm")
    assert marked(page, lambda reason: reason == "`smoothness` is off in `evaluation`")
    assert marked(page, lambda reason: reason == "`attacks` is off in `evaluation`")
    (row,) = [each for each in page.split("<tr") if "3 diverged" in each.partition("</tr>")[0]]
    assert row.partition("</tr>")[0].count('<small class="mark">') >= 3  # both accuracies, mCE


def test_the_page_names_scores_that_are_off(suite: None) -> None:
    write_suite(variants=["batch_norm"], gan_tasks=[], gan_variants=[])
    for seed in SEEDS:
        edit(place("batch_norm", seed), provenance={"evaluation": {"corrupted_examples": None, "smoothness": {}}})
    aggregate()
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert "has it off: attacks, batch_statistics, certificates, filters." in page


def test_the_markdown_says_why(suite: None) -> None:
    write_suite(seeds=[2], variants=["batch_norm", "spectral_norm"], baseline="spectral_norm")
    aggregate()
    text = Path("results/leaderboard.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    best, last = (next(line for line in lines if f"| {name} |" in line) for name in ("batch_norm", "spectral_norm"))
    assert re.search(r"\| [\d.]+ \(a\) \| \N{EN DASH} \| [\d.]+ \(a\) \| \N{EN DASH} \| \N{EN DASH} \(b\) \|", best)
    assert last.count("\N{EN DASH} (c)") == 3
    notes = "(a) one seed has no spread", "(b) no run of the baseline spectral_norm finished", "(c) the run diverged"
    assert [line.strip() for line in lines[-3:]] == list(notes)
