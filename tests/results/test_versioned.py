"""What a git diff of results/ shows: nothing where nothing has changed, and the rows of a variant that is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from normbench.results.tables import aggregate
from normbench.results.tables.table import PLAIN, SHARE, Table
from normbench.runs.record import Record
from tests.results.made_up_suite import GAN_TASK, GAN_VARIANTS, TASK, VARIANTS, edit, place, rows, write_suite

# In comparisons.csv, what Holm's correction over all pairs of a measure changes when there are more. `missing` says where
# the smallest effect is none.
ADJUSTED = {"p_holm", "verdict", "smallest_effect", "missing"}


def committed() -> dict[str, bytes]:
    """The files of results/ with their bytes."""
    return {path.as_posix(): path.read_bytes() for path in sorted(Path("results").rglob("*.*")) if path.is_file()}


def test_the_same_records_give_the_same_bytes(suite: None) -> None:
    aggregate()
    before = committed()
    assert {Path(name).name for name in before} >= {"runs.csv", "leaderboard.tex", "robustness.tex", "manifest.json"}
    aggregate()
    assert committed() == before


def test_runs_from_scratch_differ_in_their_costs_alone(suite: None) -> None:
    """Times, speeds, the revision, and how many runs shared the machine are of this training; all else is of the run."""
    aggregate()
    before = committed()
    for number, path in enumerate(sorted(Path("build/scores").rglob("*.json"))):
        cost = Record.read(path).cost
        slower: dict[str, Any] = {"seconds": {phase: 1.5 * value + 0.1 for phase, value in cost.seconds.items()}}
        slower["epoch_seconds"] = [2 * value for value in cost.epoch_seconds]
        if cost.images_per_second is not None:
            slower["images_per_second"] = 0.7 * cost.images_per_second
        origin = {"started": "2027-05-01T10:00:00+00:00", "ended": "2027-05-01T10:09:00+00:00"}
        origin |= {"git": {"revision": "e" * 40, "dirty": False}, "device": {"side_by_side": 1 + number % 2}}
        edit(path, cost=slower, provenance=origin)
    aggregate()
    after = committed()
    assert list(after) == list(before)
    assert [name for name in after if after[name] != before[name]] == ["results/costs.csv"]


def test_an_added_variant_adds_its_rows(suite: None) -> None:
    added, fewer = "fantastic_four", [name for name in VARIANTS if name != "fantastic_four"]
    write_suite(variants=fewer)
    aggregate()
    before = {path.stem: rows(str(path)) for path in Path("results").glob("*.csv")}
    metrics = {path.as_posix(): path.read_bytes() for path in Path("results/metrics").rglob("*.json")}
    manifest = json.loads(Path("results/manifest.json").read_text())
    write_suite(variants=[*fewer, added])
    aggregate()
    assert {"runs", "comparisons", "leaderboard", "corruptions", "layers"} <= set(before)
    for name, old in before.items():
        new = rows(f"results/{name}.csv")
        theirs = [row for row in new if added not in (row.get("variant"), row.get("other"))]
        if name == "comparisons":
            old, theirs = (
                [{k: v for k, v in row.items() if k not in ADJUSTED} for row in each] for each in (old, theirs)
            )
        assert theirs == old, name
        own = [row for row in new if added in (row.get("variant"), row.get("other"))]
        assert own or name in (
            "segmentation",
            "segmentation_classes",
            "segmentation_corruptions",
            "gan",
            "gan_curves",
            "filters",
            "certified",
            "bounds",
            "overall",
            "published",
            "claims",
        ), name
    changed = {path.as_posix(): path.read_bytes() for path in Path("results/metrics").rglob("*.json")}
    assert changed.keys() - metrics.keys() == {f"results/metrics/{TASK}/{added}.json"}
    assert {name: changed[name] for name in metrics} == metrics
    larger = json.loads(Path("results/manifest.json").read_text())
    assert len(larger["runs"]["classification"][TASK].pop(added)) == 3
    assert larger["runs"] == manifest["runs"]
    assert larger["variants"].keys() - manifest["variants"].keys() == {added}


def test_the_manifest_has_the_ids_of_all_runs(folder: Path) -> None:
    found = json.loads((folder / "results/manifest.json").read_text())
    ids = {
        (kind, task, variant, seed): run
        for kind, tasks in found["runs"].items()
        for task, variants in tasks.items()
        for variant, seeds in variants.items()
        for seed, run in seeds.items()
    }
    assert ids == {
        (row["kind"], row["task"], row["variant"], row["seed"]): row["run"]
        for row in rows(f"{folder}/results/runs.csv")
    }
    assert set(found["tables"]) >= {path.stem for path in (folder / "results").glob("*.csv")}
    assert found["tables"]["gan"] == ["gan"]
    assert found["code"] == {"evaluate": "7" * 64, "fid": "7" * 64}
    assert set(found["runs"]["gan"][GAN_TASK]) == set(GAN_VARIANTS)


def test_a_column_that_would_be_empty_is_left_out(suite: None) -> None:
    write_suite(baseline=None)
    aggregate()
    found = rows("results/robustness.csv")[0]
    assert "relative_mce" not in found
    assert "relative_mce" in rows("build/tables/robustness.csv")[0]  # of which the report is made
    assert "mce" in rows("results/leaderboard.csv")[0]  # whose columns are always the same
    assert "mce" in Path("results/leaderboard.md").read_text().lower()


def test_a_moved_result_moves_its_line(suite: None) -> None:
    variant = "conv_norm"
    aggregate()
    before = Path("results/runs.csv").read_text().splitlines()
    path = place(variant, 1)
    found = Record.read(path)
    edit(path, metrics=found.metrics | {"clean_accuracy": 0.5})
    aggregate()
    after = Path("results/runs.csv").read_text().splitlines()
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [line.split(",")[:5] for line in moved] == [["classification", TASK, variant, variant, "1"]]


def test_empty_columns() -> None:
    table = Table({"name": PLAIN, "a": SHARE, "b": SHARE}, [{"name": "x", "a": float("nan"), "b": 0.5}])
    assert table.without_empty().csv() == "name,b\nx,0.50000\n"
    assert Table({"name": PLAIN, "a": SHARE}, []).without_empty().csv() == "name,a\n"
