"""A finished run travels as one verified file; what is no such file changes nothing and runs no code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from normbench import cli
from normbench.runs import archive as transfer
from normbench.runs import store
from normbench.runs.run import Kind, Status
from normbench.system import files
from normbench.system.errors import UserError
from tests.support import sample_runs


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(seed: int = 0, kind: Kind = Kind.CLASSIFICATION, status: Status = Status.FINISHED) -> str:
    """A finished run in the store, as training leaves it."""
    run = sample_runs.run(kind, seed)
    sample_runs.finished(run, store.folder(run.id), status)
    return run.id


def content(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder(run).iterdir()}


@pytest.mark.parametrize("kind", sample_runs.KINDS)
@pytest.mark.parametrize("status", Status)
def test_there_and_back(stores: Path, kind: Kind, status: Status):
    run = make(kind=kind, status=status)
    before = content(run)
    archive = transfer.export(run, stores / "out")
    named = transfer.NAME.fullmatch(archive.name)
    assert named is not None
    assert named[2] == files.sha256(archive)[:16]
    os.utime(store.folder(run) / "record.json", (0, 0))
    assert transfer.export(run, stores / "again").read_bytes() == archive.read_bytes()
    assert transfer.import_(archive) == (run, False)
    shutil.rmtree(stores / "runs")
    store.unfinished(run).mkdir(parents=True)
    assert transfer.import_(archive) == (run, True)
    assert content(run) == before
    assert not store.unfinished(run).exists()
    assert [path.name for path in stores.iterdir() if path.name.startswith(".")] == []


def test_a_renamed_archive_is_verified_all_the_same(stores: Path):
    archive = transfer.export(make(), stores / "out")
    renamed = archive.rename(stores / "mine.run.tar")
    shutil.rmtree(stores / "runs")
    assert transfer.import_(renamed)[1]


def test_another_outcome_is_refused(stores: Path):
    run = make()
    archive = transfer.export(run, stores / "out")
    record = store.record(run)
    slower = record.cost.model_copy(update={"seconds": {"train": 1.0}})
    record.model_copy(update={"cost": slower}).write(store.folder(run) / "record.json")
    before = content(run)
    with pytest.raises(UserError, match="another outcome of this run, which is kept"):
        transfer.import_(archive)
    assert content(run) == before


def test_a_flipped_bit_anywhere_is_seen(stores: Path):
    archive = transfer.export(make(), stores / "out")
    shutil.rmtree(stores / "runs")
    whole = archive.read_bytes()
    with tarfile.open(archive) as opened:
        used = max(member.offset_data + member.size for member in opened)
        starts = [member.offset_data for member in opened]
    for name in (archive.name, "renamed.run.tar"):
        for place in [*starts, *range(40, used, 997)] if name == archive.name else starts:
            damaged = bytearray(whole)
            damaged[place] ^= 4
            (stores / name).write_bytes(damaged)
            with pytest.raises(UserError):
                transfer.import_(stores / name)
        for length in (0, 100, 600, used // 2, used - 1):
            (stores / name).write_bytes(whole[:length])
            with pytest.raises(UserError):
                transfer.import_(stores / name)
    assert store.all_finished() == []


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def rebuilt(_run: str, path: Path, change: Callable[[dict[str, bytes]], None], *more: Any, **facts: Any) -> Path:
    """An archive whose files were changed and whose manifest fits them; `more` members stand at its end."""
    parts = content(_run)
    change(parts)
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    manifest = {"format": 1, "run": _run, "files": listed} | facts
    with tarfile.open(path, "w") as archive:
        for info, data in [
            member("manifest.json", json.dumps(manifest).encode()),
            *(member(name, data) for name, data in parts.items()),
            *more,
        ]:
            archive.addfile(info, io.BytesIO(data))
    return path


def nothing(parts: dict[str, bytes]) -> None:
    pass


def test_rebuilt_without_a_change_is_taken(stores: Path):
    run = make()
    archive = rebuilt(run, stores / "x.run.tar", nothing)
    shutil.rmtree(stores / "runs")
    assert transfer.import_(archive) == (run, True)


@pytest.mark.parametrize(
    "extra",
    [
        member("../outside", b"x"),
        member("/tmp/normbench-outside", b"x"),
        member("weights.pt", b"x"),
        member("notes.txt", b"x"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("weights.pt", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("link", type=tarfile.LNKTYPE, linkname="record.json"),
        member("device", type=tarfile.CHRTYPE),
        member("folder", type=tarfile.DIRTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
    ],
    ids=lambda each: f"{each[0].name} {each[0].type.decode()}",
)
def test_members_that_no_run_has(stores: Path, extra: Any):
    archive = rebuilt(make(), stores / "x.run.tar", nothing, extra)
    shutil.rmtree(stores / "runs")
    with pytest.raises(UserError, match="does not list once"):
        transfer.import_(archive)
    assert {path.name for path in stores.iterdir()} == {"x.run.tar", "runs"}
    assert list((stores / "runs").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_listed_file_that_is_a_link(stores: Path, kind: bytes):
    run = make()
    parts = content(run)
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    with tarfile.open(stores / "x.run.tar", "w") as archive:
        info, data = member("manifest.json", json.dumps({"format": 1, "run": run, "files": listed}).encode())
        archive.addfile(info, io.BytesIO(data))
        archive.addfile(member("record.json", type=kind, linkname="/etc/passwd")[0])
    shutil.rmtree(stores / "runs")
    with pytest.raises(UserError):
        transfer.import_(stores / "x.run.tar")
    assert store.all_finished() == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def pickled(parts: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    torch.save({"w": Evil()}, buffer)
    parts["weights.pt"] = buffer.getvalue()


def objects(parts: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, predicted=np.array([Evil()], dtype=object))
    parts["predictions.npz"] = buffer.getvalue()


def edited(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        parts["record.json"] = json.dumps(json.loads(parts["record.json"]) | values).encode()

    return change


def without(*keys: str) -> Callable[[dict[str, bytes]], None]:
    """Leaves out what stands at a place in the record."""

    def change(parts: dict[str, bytes]) -> None:
        record = place = json.loads(parts["record.json"])
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        parts["record.json"] = json.dumps(record).encode()

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (pickled, "weights.pt cannot be read"),
        (objects, "predictions.npz cannot be read"),
        (edited(seed=1), "describes run"),
        (edited(run="0" * 16), "describes run"),
        (edited(status="splendid"), "status: Input should be 'finished' or 'diverged'"),
        (edited(metrics={"clean_accuracy": float("nan")}), "holds a number that is not finite"),
        (edited(metrics={"history": [{"loss": float("inf")}]}), "holds a number that is not finite"),
        (edited(provenance={}), "no record of a run"),
        (edited(kind=[]), "no record of a run"),
        (without("run"), "no record of a run"),
        (without("provenance", "numerics"), "no record of a run"),
        (without("provenance", "ended"), "no record of a run"),
        (without("provenance", "device"), "no record of a run"),
        (edited(status="diverged"), "a diverged run has"),
        (lambda parts: parts.pop("weights.pt"), "a finished run has record.json, weights.pt, predictions.npz"),
        (lambda parts: parts.update({"generator.pt": b""}), "a finished run has"),
        (lambda parts: parts.update({"record.json": b"[" * 100_000}), "no record of a run"),
    ],
)
def test_content_that_no_run_has(stores: Path, change: Callable[[dict[str, bytes]], None], line: str):
    archive = rebuilt(make(), stores / "x.run.tar", change)
    shutil.rmtree(stores / "runs")
    with pytest.raises(UserError, match=line):
        transfer.import_(archive)
    assert store.all_finished() == []
    assert not (stores / "pwned").exists()


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"format": 2}, "format = 2: must be 1"),
        ({"run": "../../x"}, "is not as"),
        ({"files": []}, "is not as"),
        ({"files": {"record.json": {"bytes": 10**12, "sha256": "0" * 64}}}, "at most"),
        ({"files": {"record.json": {"bytes": -1, "sha256": "0" * 64}}}, "is not as"),
        ({"files": {n: {"bytes": 1, "sha256": "0" * 64} for n in ("record.json", "../x")}}, "which no run has"),
    ],
)
def test_manifests(stores: Path, facts: dict[str, Any], line: str):
    archive = rebuilt(make(), stores / "x.run.tar", nothing, **facts)
    with pytest.raises(UserError, match=line):
        transfer.import_(archive)


def test_other_files(stores: Path):
    (stores / "x.run.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(UserError, match="no archive of a run"):
        transfer.import_(stores / "x.run.tar")
    with tarfile.open(stores / "y.run.tar", "w:gz") as archive:  # compressed archives can be bombs
        archive.addfile(*[member("manifest.json")[0]])
    with pytest.raises(UserError):
        transfer.import_(stores / "y.run.tar")
    with pytest.raises(UserError, match="no such file or folder"):
        transfer.archives([stores / "z"])


def test_commands(stores: Path, monkeypatch: pytest.MonkeyPatch):
    ids = [make(seed) for seed in range(3)]
    run = CliRunner().invoke
    done = run(cli.app, ["runs", "export", ids[0], ids[1][:6], "--to", "out"])
    assert done.exit_code == 0, done.output
    assert len(list((stores / "out").glob("*.run.tar"))) == 2
    shutil.rmtree(stores / "runs")
    (stores / "out" / "broken.run.tar").write_bytes(b"x" * 600)
    done = run(cli.app, ["runs", "import", "out"])
    assert "2 runs taken into" in done.output  # the broken one does not take the others along
    assert done.exit_code == 1
    assert store.all_finished() == sorted(ids[:2])
    (stores / "out" / "broken.run.tar").unlink()
    done = run(cli.app, ["runs", "import", "out"])
    assert "0 runs taken into" in done.output
    assert "2 were there" in done.output
    assert run(cli.app, ["runs", "export", "feed"]).exit_code == 1
