"""Damaged files of build/resolved are named in one line with the command that restores them, and `check` sees them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.results.tables.corruptions import Corruptions
from normbench.runs.checkpoint import Checkpoints
from normbench.suite import evaluate, resolve, resolved
from normbench.suite.suite import Suite
from normbench.system import files, intact
from normbench.system.errors import UserError
from stages.download import download
from tests.support.project import ONE_RUN

READERS: dict[str, Callable[[], object]] = {
    "corruptions": Corruptions.resolved,
    "evaluation": lambda: evaluate.scores_of(resolved.evaluation()),
    "datasets/digits": lambda: download("digits"),
    "code/train": lambda: resolved.digest("train"),
}


def other_key(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    changed = text.replace('"', '"~', 1)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "no keys": (lambda path: path.write_bytes(b"{}"), "is damaged"),
    "a list": (lambda path: path.write_bytes(b"[1]"), "is damaged"),
    "null": (lambda path: path.write_bytes(b"null"), "is damaged"),
    "no text": (lambda path: path.write_bytes(b"\xe9"), "is damaged"),
    "folder": (folder, "cannot be read: Is a directory"),
    "pipe": (pipe, "cannot be read: is no file"),  # It is not waited for.
    "missing": (Path.unlink, "is missing"),
}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> resolved.Resolved:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_STORE", "runs")
    Path("params.yaml").write_text(ONE_RUN, encoding="utf-8")
    found = resolve.resolve()
    found.write()
    return found


def test_each_damage_of_each_file(whole: resolved.Resolved) -> None:
    for name, read in READERS.items():
        path = Path(f"build/resolved/{name}.json")
        assert whole.is_written()
        for damage, line in DAMAGE.values():
            read()
            damage(path)
            assert not whole.is_written()
            if "datasets" in name and line in ("is missing", DAMAGE["pipe"][1], DAMAGE["folder"][1]):
                line = "no such dataset; "  # The name may be a mistake.
            with pytest.raises(UserError) as error:
                read()
            assert str(error.value).startswith(f"{path}: {line}")
            assert str(error.value).isprintable()
            if path.is_dir():
                path.rmdir()
            whole.write()


@pytest.mark.parametrize("name", ["corruptions", "datasets/digits", "evaluation", "code/train"])
def test_a_flipped_bit_in_a_key(name: str, whole: resolved.Resolved) -> None:
    path = Path(f"build/resolved/{name}.json")
    other_key(path)
    with pytest.raises(UserError, match=f"^{path}: .*; `dvc repro resolve` restores it"):
        READERS[name]()


def test_a_stage_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    """Neither where JSON is read, nor where a file with a known sha256 is, nor for a checkpoint."""
    path = tmp_path / "000001-0123456789abcdef.pt"
    os.mkfifo(path)
    for read in (files.read_json, files.read_text, Suite.read, intact.sha256, intact.signature):
        with pytest.raises((OSError, UserError), match="is no file"):
            read(path)
    assert Checkpoints(tmp_path, 10).resume() is None
    assert [left.name for left in tmp_path.iterdir()] == ["000001-0123456789abcdef.damaged"]


def test_a_folder_in_the_place_of_a_checkpoint_is_set_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 10)
    checkpoints.save({"number": 1})
    (tmp_path / "000002-0123456789abcdef.pt").mkdir()
    assert checkpoints.resume() == {"number": 1}
    assert sorted(left.suffix for left in tmp_path.iterdir()) == [".damaged", ".pt"]
