"""A record that is missing, damaged, foreign or there twice is named and left out, and the tables are made of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normbench.results.tables import aggregate
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.reading import Found, read
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system import files
from normbench.system.errors import UserError
from tests.results.made_up_suite import (
    NAMES,
    OTHERS,
    SEEDS,
    SEVERITIES,
    TASK,
    classification_record,
    edit,
    finished,
    place,
    rows,
    write_suite,
)

LEFT_OUT = "conv_norm"  # whose record of seed 1 is left out: none of its runs diverges


def row(variant: str, table: str = "leaderboard") -> dict[str, str]:
    (found,) = [each for each in rows(f"results/{table}.csv") if each["variant"] == variant]
    return found


def damaged(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8")[:1000], encoding="utf-8")


def forged(path: Path) -> None:
    files.write_json(path, files.read_json(path) | {"run": "0" * 16})


def older(path: Path) -> None:
    files.write_json(path, files.read_json(path) | {"format": 1})


def of_another_seed(path: Path) -> None:
    path.write_bytes(path.with_name("2.json").read_bytes())


def of_a_gan(path: Path) -> None:
    path.write_bytes(place("spectral_norm_alone", 1, "gan").read_bytes())


def not_scored(path: Path) -> None:
    whole = Record.read(path).metrics
    trained = {name: whole[name] for name in ("history", "training_set", "clean_accuracy")}
    edit(path, metrics=trained, provenance={"corrupted": None})


def scored_on_fewer(path: Path) -> None:
    whole = Record.read(path).metrics
    fewer = {name: values[:4] for name, values in whole["corruption_accuracy"].items()}
    corrupted = Record.read(path).provenance.corrupted
    assert corrupted is not None
    edit(
        path,
        metrics=whole | {"corruption_accuracy": fewer},
        provenance={"corrupted": corrupted.model_copy(update={"severities": SEVERITIES[:4]})},
    )


def with_damaged_scores(path: Path) -> None:
    value = files.read_json(path)
    value["metrics"]["smoothness"] = {"layers": 7}
    files.write_json(path, value)


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (Path.unlink, "no such record, but the suite has that run"),
    (damaged, "Invalid JSON"),
    (forged, "run: the record describes run "),
    (older, "is a record of version 1, which does not say all"),
    (of_another_seed, "is the record of a classification run of seed 2"),
    (of_a_gan, "is the record of a gan run of seed 1"),
    (not_scored, "evaluated on 0 corruptions at severities \\[\\], but params.yaml has 19"),
    (scored_on_fewer, "evaluated on 19 corruptions at severities \\[1, 2, 3, 4\\], but"),
    (with_damaged_scores, "metrics: a score is damaged \\(KeyError: 'local'\\)"),
]


def found() -> dict[Kind, Found]:
    return read(Suite.resolved(), Corruptions.resolved())


@pytest.mark.parametrize(("damage", "why"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_it_is_named_and_left_out(
    suite: None, damage: Callable[[Path], Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place(LEFT_OUT, 1)
    damage(path)
    of = found()[Kind.CLASSIFICATION]
    named, last = capsys.readouterr().err.splitlines()
    mend = f"`python -m stages.evaluate --task {TASK} --variant {LEFT_OUT}` writes it"
    assert re.fullmatch(f"{re.escape(str(path))}: {why}.*; {re.escape(mend)}", named)
    assert last == "1 of 30 records left out: the tables are made without them, and their rows say so"
    assert [record.seed for record in of.runs[TASK, LEFT_OUT]] == [0, 2]
    assert list(of.left_out) == [(TASK, LEFT_OUT)]
    assert re.match(why, of.left_out[TASK, LEFT_OUT][1])
    assert sum(map(len, of.runs.values())) == 23


def test_the_rest_is_shown(suite: None) -> None:
    aggregate()
    before = {path.name: path.read_text(encoding="utf-8") for path in Path("results").glob("*.csv")}
    damaged(place(LEFT_OUT, 1))
    aggregate()
    kept = [record.metrics["clean_accuracy"] for record in finished(LEFT_OUT) if record.seed != 1]
    assert float(row(LEFT_OUT)["clean_accuracy"]) == pytest.approx(sum(kept) / 2, abs=1e-5)
    assert (row(LEFT_OUT)["runs"], row(LEFT_OUT)["finished"]) == ("3", "2")
    why = "runs: 2 of 3 records, the others left out (seed 1: Invalid JSON"
    for table in ("leaderboard", "robustness", "smoothness"):
        assert why in row(LEFT_OUT, table)["missing"]
        assert "left out" not in row("batch_norm", table)["missing"]
    assert "left out" in Path("results/leaderboard.md").read_text(encoding="utf-8")
    for name in ("runs", "robustness", "corruptions", "smoothness", "layers", "features", "filters", "curves"):
        now = Path(f"results/{name}.csv").read_text(encoding="utf-8").splitlines()
        assert [line for line in now if f"{TASK},{LEFT_OUT}," not in line] == [
            line for line in before[f"{name}.csv"].splitlines() if f"{TASK},{LEFT_OUT}," not in line
        ]


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.GAN])
def test_a_variant_without_records_keeps_its_row(kind: Kind, suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    variant = LEFT_OUT if kind is Kind.CLASSIFICATION else "spectral_norm_alone"
    for seed in SEEDS:
        place(variant, seed, kind).unlink()
    aggregate()
    assert len(capsys.readouterr().err.splitlines()) == 4
    found = row(variant, "gan" if kind is Kind.GAN else "leaderboard")
    assert found["method"] == files.read_json(f"build/resolved/variants/{variant}.json")["method"]
    measure = "fid" if kind is Kind.GAN else "clean_accuracy"
    assert [found[name] for name in (measure, "peak_memory_mib", "parameters")] == ["", "", ""]
    assert "no record of its runs can be used" in found["missing"]
    assert "runs: 0 of 3 records, the others left out (seed 0: no such record" in found["missing"]


def test_the_baseline_may_be_without_records(suite: None) -> None:
    for seed in SEEDS:
        place("batch_norm", seed).unlink()
    aggregate()
    assert row(LEFT_OUT)["mce"] == ""
    assert "mce: no run of the baseline batch_norm finished" in row(LEFT_OUT)["missing"]


def test_nothing_is_written_without_any_record(suite: None) -> None:
    for path in Path("build/scores").rglob("*.json"):
        path.unlink()
    with pytest.raises(UserError) as error:
        aggregate()
    first, last = str(error.value).split("\n")
    assert first.startswith(f"{place('batch_norm', 0)}: no such record")
    assert last == "none of the suite's 30 records can be used"
    assert not Path("results").exists()


def test_a_task_without_records_is_as_it_is_resolved(suite: None) -> None:
    for path in Path("build/scores/gan").rglob("*.json"):
        path.unlink()
    aggregate()
    assert {each["fid"] for each in rows("results/gan.csv")} == {""}


def test_a_run_with_other_settings_is_foreign(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the suite is resolved, its runs are known."""
    files.write_json("build/resolved/code/train.json", {"digest": classification_record(LEFT_OUT, 0).provenance.code})
    found()
    assert capsys.readouterr().err == ""  # A renamed task and other lists of seeds change no run.
    edit(place(LEFT_OUT, 1), provenance={"task": {"recipe": {"lr": 0.3}}})
    edit(place("group_norm", 2), provenance={"code": "9" * 64})
    edit(place("no_norm", 0), provenance={"variant": {"name": "once", "method": "elsewhere:Norm"}})
    found()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines[:-1]] == [str(place("group_norm", 2)), str(place(LEFT_OUT, 1))]
    assert all("is the record of a run with other settings or code than the suite has" in line for line in lines[:-1])


def test_what_is_not_of_the_suite_is_named_once(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = found()
    capsys.readouterr()
    folder = place("batch_norm", 0).parent
    (folder / "0 (copy).json").write_bytes((folder / "0.json").read_bytes())
    (folder / "7.json").write_bytes(b"{")
    (folder / "1.npz").write_bytes(b"")
    for name in ("classification/other/batch_norm", f"classification/{TASK}/gone", "more"):
        Path("build/scores", name).mkdir(parents=True)
        for seed in SEEDS:
            Path("build/scores", name, f"{seed}.json").write_bytes((folder / "0.json").read_bytes())
    assert found() == before
    run = Record.read(folder / "0.json").run
    assert set(capsys.readouterr().err.splitlines()) == {
        f"{folder}/0 (copy).json: run {run} once more, beside 0.json; left out",
        f"{folder}/7.json: not of a run of the suite; left out",
        "build/scores/classification/other: not of a task of the suite; left out",
        f"build/scores/classification/{TASK}/gone: not of a variant of the suite; left out",
        "build/scores/more: not of a kind of runs; left out",
    }


def test_two_variants_may_share_a_run(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of equal settings have the same runs, and both have a row."""
    for seed in SEEDS:
        place("batch_norm_2", seed).parent.mkdir(exist_ok=True)
        place("batch_norm_2", seed).write_bytes(place("batch_norm", seed).read_bytes())
    write_suite(variants=["batch_norm", "batch_norm_2"])
    runs = found()[Kind.CLASSIFICATION].runs
    assert runs[TASK, "batch_norm_2"] == runs[TASK, "batch_norm"] != []
    assert "once more" not in capsys.readouterr().err


def test_only_the_first_of_many_are_named(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    files.write_json("build/resolved/corruptions.json", {"names": NAMES, "severities": SEVERITIES[:4], **OTHERS})
    found()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("20 of 30 records left out")  # those of the classifiers that did not diverge
    assert len(lines) == 21
    write_suite(seeds=[*SEEDS, 3, 4, 5])
    found()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("30 of 60 records left out")
    assert lines[-2] == "build/scores: 10 more such lines are not shown"
    assert len(lines) == 22
