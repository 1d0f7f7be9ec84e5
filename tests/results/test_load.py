"""The runs as a data frame."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pandas as pd
import pytest

from normbench.results import load
from normbench.results.tables import aggregate
from normbench.system.errors import UserError
from tests.results.made_up_suite import GAN_TASK, TASK, finished, place
from tests.support.records import record

COLUMNS = ["kind", "task", "variant", "method", "seed", "status", "tuned"]
COLUMNS += ["clean_accuracy", "corruption_accuracy", "fid"]
COSTS = ["peak_memory_mib", "parameters", "device", "precision", "memory_format"]
COSTS += ["images_per_second", "iterations_per_second", "seconds", "compile_seconds", "side_by_side", "run"]
KEY = ["kind", "task", "variant", "seed"]


def test_a_row_for_each_run_of_the_suite(suite: None) -> None:
    runs = load(Path("build/scores"))
    assert list(runs) == COLUMNS + COSTS
    assert len(runs) == 8 * 3 + 2 * 3
    assert runs["kind"].value_counts().to_dict() == {"classification": 24, "gan": 6}
    own = runs[(runs["task"] == TASK) & (runs["variant"] == "no_norm")].set_index("seed")
    assert list(own.index) == [0, 1, 2]
    assert list(own["status"]) == ["finished", "diverged", "finished"]
    for made in finished("no_norm"):
        row = own.loc[made.seed]
        assert row["clean_accuracy"] == made.metrics["clean_accuracy"]
        levels = [level for levels in made.metrics["corruption_accuracy"].values() for level in levels]
        assert row["corruption_accuracy"] == pytest.approx(statistics.mean(levels))
        assert row["images_per_second"] == made.cost.images_per_second
        assert row["seconds"] == pytest.approx(sum(made.cost.seconds.values()))
        assert row["peak_memory_mib"] == made.cost.peak_memory_bytes / 2**20
        assert (row["parameters"], row["run"]) == (made.cost.parameters, made.run)
    assert math.isnan(own.loc[1, "clean_accuracy"])
    gan = runs[runs["task"] == GAN_TASK]
    assert list(gan["fid"].dropna()) == [62.5, 63.5, 34.25, 35.25, 36.25]
    assert gan["clean_accuracy"].isna().all()
    assert list(gan["iterations_per_second"]) == pytest.approx(2 * [(2100 + seed) / 64 for seed in range(3)])
    assert runs.loc[runs["task"] == TASK, "iterations_per_second"].isna().all()


def test_it_is_what_the_tables_of_runs_and_of_costs_say(suite: None) -> None:
    """These have fixed digits, and the order of the suite."""
    aggregate()
    runs = load().sort_values(KEY, ignore_index=True)
    for name in ("runs", "costs"):
        table = pd.read_csv(f"results/{name}.csv").sort_values(KEY, ignore_index=True)
        assert set(table) <= set(runs)
        pd.testing.assert_frame_equal(table, runs[list(table)], check_dtype=False, rtol=0, atol=0.051)
    accuracies = pd.read_csv("results/runs.csv").set_index(KEY)["clean_accuracy"]
    assert (accuracies - runs.set_index(KEY)["clean_accuracy"]).abs().max() < 6e-6


def test_every_number_of_a_score_is_a_column(tmp_path: Path) -> None:
    for seed, columns in enumerate(({"ece": 0.1, "gap": 3}, {"nll": 2.0})):
        made = record(seed=seed, metrics={"clean_accuracy": 0.5, "columns": columns})
        made.write(tmp_path / "classification/t/v" / f"{seed}.json")
    runs = load(tmp_path)
    assert list(runs) == [*COLUMNS, "nll", "ece", "gap", *COSTS]
    assert runs["nll"].isna().tolist() == [True, False]
    assert runs.loc[0, "gap"] == 3


def test_names_are_those_of_folders_and_seeds_are_in_order(tmp_path: Path) -> None:
    """A run that was trained under another name keeps it in its record; other files are not read."""
    for seed in (10, 9):
        record("old-name", "old_variant", seed).write(tmp_path / "classification/new-name/NA" / f"{seed}.json")
    (tmp_path / "classification/new-name/NA/notes.json").write_text("[]", encoding="utf-8")
    runs = load(str(tmp_path))
    assert runs[["task", "variant", "seed"]].values.tolist() == [["new-name", "NA", 9], ["new-name", "NA", 10]]


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: has no records"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{}", "is a record of another version of normbench, so the run has to be trained again"),
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'{"format": 2, "run": "0123456789abcdef"}', "is a damaged record of version 2"),
    ],
)
def test_a_file_that_is_no_record_is_named_and_left_out(
    suite: None, capsys: pytest.CaptureFixture[str], content: bytes, line: str
) -> None:
    path, whole = place("conv_norm", 1), load()
    path.write_bytes(content)
    capsys.readouterr()
    left = whole[(whole["variant"] != "conv_norm") | (whole["seed"] != 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(load(), left)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{path}: {line}")
    assert told.endswith("; left out")


def test_without_any_valid_record_there_is_an_error(tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / "classification/t/v").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"classification/t/v/{seed}.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="none of its 2 records is valid"):
        load(tmp_path)
