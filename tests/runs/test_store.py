"""A result in the run store that cannot be used is named once and left out, and a needed one is trained again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from normbench import cli
from normbench.runs import archive, provenance, store
from normbench.runs.record import Record, TrainedRecord
from normbench.runs.run import Kind, Run
from normbench.runs.train import claim_and_train
from normbench.system.errors import UserError
from tests.support import sample_runs
from tests.support.kill_and_resume import splits


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NORMBENCH_STORE", "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "_named", [])
    return Path("runs")


def run(seed: int = 0) -> Run:
    task = sample_runs.task(recipe={"epochs": 1, "batch_size": 16, "crop_padding": 0})
    return sample_runs.run(task=task, seed=seed, variant=sample_runs.variant(options={}))


def written(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "record.json").write_bytes(content)


def old(folder: Path) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))


def of_another(folder: Path) -> None:
    sample_runs.finished(run(9), folder)


def unreadable(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    folder.chmod(0)


def a_folder(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "record.json").mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("hello")


def scored(folder: Path) -> None:
    path = folder / "record.json"
    record = json.loads(path.read_text())
    record["metrics"]["attacks"] = {"pgd": 1.0}
    path.write_text(json.dumps(record))


def longer(folder: Path) -> None:
    with (folder / "weights.pt").open("ab") as file:
        file.write(b"x")


def a_loop(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "record.json").symlink_to("record.json")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (written(b""), "record.json: Invalid JSON"),
    "{}": (written(b"{}"), "record.json: is a record of another version"),
    "[]": (written(b"[]"), "record.json: Input should be"),
    "old": (old, "record.json: is a record of version 1"),
    "no JSON": (written(b"<html>"), "record.json: Invalid JSON"),
    "deep": (written(b"[" * 100_000), "record.json: Invalid JSON"),
    "no UTF-8": (written(b'{"format": "\xff"}'), "record.json: Invalid JSON"),
    "zeros": (written(bytes(4096)), "record.json: Invalid JSON"),
    "a folder as record": (a_folder, "record.json: cannot be read: is no file"),
    "a loop": (a_loop, "record.json: cannot be read"),
    "no rights": (unreadable, "record.json: cannot be read: Permission denied"),
    "a file as folder": (a_file, "record.json: cannot be read: Not a directory"),
    "no record": (lambda folder: (folder / "record.json").unlink(), "record.json: is missing"),
    "no weights": (lambda folder: (folder / "weights.pt").unlink(), "weights.pt: is missing"),
    "longer weights": (longer, "weights.pt: is damaged: it has"),
    "another run": (of_another, "record.json: is the record of run"),
    "scores": (scored, "record.json: metrics.attacks: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_named_once_and_left_out(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, line = BAD[name]
    good, bad = run(0).id, run(1).id
    for seed in (0, 1):
        sample_runs.finished(run(seed), store.folder(run(seed).id))
    damage(store.folder(bad))
    for _ in range(2):
        assert store.all_finished() == [good]
        assert not store.finished(bad)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"runs/{bad}/{line}")
    assert told.endswith("; left out")
    done = CliRunner().invoke(cli.app, ["runs", "export", good])
    assert done.exit_code == 0, done.output
    assert "1 runs in exported" in done.output
    done = CliRunner().invoke(cli.app, ["runs", "export", bad])
    assert done.exit_code == 1


@pytest.mark.parametrize("name", BAD)
def test_one_that_is_needed_is_trained_again_and_nothing_is_lost(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = run()
    sample_runs.finished(needed, store.folder(needed.id))
    BAD[name][0](store.folder(needed.id))
    assert claim_and_train(needed, splits)
    assert store.sound(needed.id)
    assert store.record(needed.id).provenance.device.name == provenance.cpu_name()
    (aside,) = runs.glob("*.bad-*")
    assert aside.name == f"{needed.id}.bad-1"
    told = capsys.readouterr().err.splitlines()
    assert f"runs/{needed.id}: set aside as {aside.name}" in told
    assert not claim_and_train(needed, lambda: pytest.fail("it is there"))


def test_flipped_weights_are_found_where_the_run_is_needed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listing looks at sizes alone."""
    needed = run()
    sample_runs.finished(needed, store.folder(needed.id))
    path = store.folder(needed.id) / "weights.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.finished(needed.id)
    assert not store.sound(needed.id)
    with pytest.raises(UserError, match=r"weights\.pt: is damaged: its bytes are not those that were written"):
        archive.export(needed.id, Path("exported"))
    assert not Path("exported").exists() or not list(Path("exported").iterdir())
    assert claim_and_train(needed, splits)
    assert (runs / f"{needed.id}.bad-1/weights.pt").read_bytes() == content


def test_a_damaged_run_does_not_keep_others_from_being_exported(runs: Path) -> None:
    for seed in (0, 1):
        sample_runs.finished(run(seed), store.folder(run(seed).id))
    path = store.folder(run(0).id) / "predictions.npz"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"1 runs in exported.*\n.*predictions\.npz: is damaged"):
        archive.export_all([run(0).id, run(1).id], Path("exported"))
    assert [file.name[:16] for file in Path("exported").iterdir()] == [run(1).id]


def test_an_import_takes_the_place_of_a_damaged_result(runs: Path) -> None:
    one = run()
    sample_runs.finished(one, store.folder(one.id))
    path = archive.export(one.id, Path("exported"))
    longer(store.folder(one.id))
    assert archive.import_(path) == (one.id, True)
    assert store.sound(one.id)
    assert (runs / f"{one.id}.bad-1").is_dir()


def test_foreign_files_beside_a_run_stay_behind(runs: Path) -> None:
    one = run()
    sample_runs.finished(one, store.folder(one.id))
    (store.folder(one.id) / ".DS_Store").write_bytes(b"x")
    assert store.finished(one.id)
    path = archive.export(one.id, Path("exported"))
    store.fetch(one.id, Path("out/0"))
    assert sorted(file.name for file in Path("out/0").iterdir()) == ["predictions.npz", "record.json", "weights.pt"]
    assert archive.import_(path) == (one.id, False)


def test_what_no_store_has_is_named_once(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample_runs.finished(run(), store.folder(run().id))
    for name in ("locks", "compiled", ".import.x", f"{'a' * 16}.unfinished", f"{'a' * 16}.bad-2"):
        (runs / name).mkdir()
    assert store.all_finished() == [run().id]
    assert capsys.readouterr().err == ""
    (runs / "notes\x1b[2J.txt").write_text("x")
    (runs / "old").mkdir()
    for _ in range(2):
        assert store.all_finished() == [run().id]
    assert capsys.readouterr().err == "runs: 'notes\\x1b[2J.txt' and 1 more: not of a run store; left out\n"


def test_many_bad_ones_do_not_fill_the_screen(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        (runs / f"{number:016x}").mkdir(parents=True)
    assert store.all_finished() == []
    assert len(capsys.readouterr().err.splitlines()) == store.NAMED + 1


def test_a_run_that_cannot_have_a_record_is_refused_before_its_training() -> None:
    def images() -> Any:
        raise AssertionError("nobody needs them")

    for changed in (
        {"variant": sample_runs.variant(name="v\x1b[2J")},
        {"bound": sample_runs.bound(origin="a\x00")},
        {"task": sample_runs.task(seeds=[4])},
    ):
        with pytest.raises(UserError, match=r"has a control character|is none of the task's seeds"):
            claim_and_train(sample_runs.run(**changed), images)
    assert not Path("runs").exists() or store.all_finished() == []


def test_free_texts_may_have_lines() -> None:
    made = sample_runs.record(sample_runs.run(bound=sample_runs.bound(note="two\n\tlines")))
    made.write(Path("record.json"))
    assert TrainedRecord.read(Path("record.json")) == made


def test_what_is_not_valid_is_not_written(tmp_path: Path) -> None:
    made = sample_runs.record(run())
    for changed, line in (
        ({"metrics": made.metrics | {"clean_accuracy": 7}}, "metrics.clean_accuracy"),
        ({"metrics": made.metrics | {"clean_accuracy": float("nan")}}, "metrics.clean_accuracy"),
        ({"seed": 3}, "run: the record describes run"),
        ({"diverged": {"epoch": 0, "step": 0}}, "diverged: a diverged run has"),
    ):
        with pytest.raises(UserError, match=f"record.json: not written: .*{line}"):
            made.model_copy(update=changed).write(Path("record.json"))
        assert not Path("record.json").exists()


def test_a_scored_record_has_what_was_trained_and_scores() -> None:
    made = sample_runs.record(run())
    scored = made.with_scores({"corruption_accuracy": {"fog": [0.5]}, "columns": {"nll": 1}}, {"corruptions": 1.0})
    scored.write(Path("0.json"))
    assert Record.read(Path("0.json")) == scored
    with pytest.raises(UserError, match=r"metrics\.columns: Extra inputs|metrics\.corruption_accuracy: Extra inputs"):
        TrainedRecord.read(Path("0.json"))
    for metrics, line in (
        ({"corruption_accuracy": {"fog": [1.5]}}, "metrics.corruption_accuracy.fog.0"),
        ({"columns": {"nll": "1"}}, "metrics.columns.nll"),
        ({"columns": {"nll": float("inf")}}, "metrics.columns.nll"),
        ({"calibration": {"nll": 1.0}}, "metrics.calibration.brier"),
        ({"clean_accuracy": 2}, "metrics.clean_accuracy"),
        ({"mine": {"a": "\x1b[2J"}}, "metrics.mine.a: has a control character"),
    ):
        with pytest.raises(UserError, match=line):
            made.with_scores(metrics, {})
    gan = sample_runs.record(sample_runs.run(Kind.GAN))
    assert gan.with_scores({"fid": 3.0}, {}).metrics["fid"] == 3.0
    with pytest.raises(UserError, match=r"metrics\.attacks: Extra inputs"):
        gan.with_scores({"attacks": {}}, {})
    with pytest.raises(UserError, match=r"metrics\.fid"):
        gan.with_scores({"fid": float("nan")}, {})


def test_a_clock_that_was_set_back_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["2026-03-01T10:00:00+00:00", "2026-03-01T09:00:00+00:00"])
    monkeypatch.setattr(provenance, "now", lambda: next(times))
    one = run()
    assert claim_and_train(one, splits)
    assert store.record(one.id).provenance.ended == "2026-03-01T10:00:00+00:00"
