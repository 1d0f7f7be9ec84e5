"""Prepared and corrupted images are compared with their checksums before they are used: once, and for what is read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.data import arrays, intact
from normbench.system import files
from normbench.system import intact as checksums
from normbench.system.errors import UserError
from tests.support.prepared import own_arrays, prepared, write_npz
from tests.support.records import corrupted_images

MEND = "`dvc repro` restores it (without DVC: `python -m stages.{} --dataset mine`)"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a dataset that the stage has prepared."""
    monkeypatch.chdir(tmp_path)
    prepared("npz", **write_npz(own_arrays()))
    return Path("build/data/mine")


def fingerprint(folder: Path) -> str:
    return files.read_json(folder / "meta.json")["fingerprint"]


def overwritten(path: Path) -> None:
    array = np.load(path)
    array[:] = 2
    np.save(path, array)


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.int32))


def other_shape(path: Path) -> None:
    array = np.load(path)
    np.save(path, array[None])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def objects(path: Path) -> None:
    np.save(path, np.array([{}] * 9, dtype=object), allow_pickle=True)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], Any]] = [overwritten, one_bit, other_type, other_shape, half, objects, folder]
DAMAGES += [lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: path.write_text("<html>")]


@pytest.mark.parametrize("name", arrays.ARRAYS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_damaged_file_and_the_command_that_mends_it_are_named(
    mine: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    intact.check(mine, fingerprint(mine))
    damage(mine / f"{name}.npy")
    with pytest.raises(UserError) as error:
        intact.check(mine, fingerprint(mine))
    text = str(error.value)
    assert text.startswith(f"{mine / name}.npy: ")
    assert text.endswith(MEND.format("download"))
    assert text.isprintable()


def test_other_data_under_the_same_name(mine: Path) -> None:
    """All of it fits its own meta.json, but not what a run expects."""
    with pytest.raises(UserError, match=f"{mine}: is not what was prepared"):
        intact.check(mine, "0" * 64)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"fingerprint": 3}'])
def test_a_damaged_description(mine: Path, content: bytes) -> None:
    (mine / "meta.json").write_bytes(content)
    with pytest.raises(UserError, match=r"meta\.json: .*stages\.download --dataset mine"):
        intact.meta(mine)


def test_each_file_is_read_once_in_a_process_unless_it_changes(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], arrays.fingerprint

    def counted(given: Any, stream: object = None) -> str:
        read.append(1)
        return original(given, stream)

    monkeypatch.setattr(arrays, "fingerprint", counted)
    for _ in range(3):
        intact.check(mine, fingerprint(mine))
    assert len(read) == 1
    with multiprocessing.get_context("fork").Pool(1) as pool:  # a forked worker knows what its parent has read
        assert pool.apply(_read_again, (mine, fingerprint(mine))) == 0
    overwritten(mine / "test_labels.npy")
    with pytest.raises(UserError, match="test_labels"):
        intact.check(mine, fingerprint(mine))


def _read_again(mine: Path, expected: str) -> int:
    read = 0

    def counted(given: Any, stream: object = None) -> str:
        nonlocal read
        read += 1
        return expected

    arrays.fingerprint = counted  # in this process alone
    intact.check(mine, expected)
    return read


@pytest.fixture
def corrupted(tmp_path: Path) -> Any:
    target = tmp_path / "build/corrupted/mine"
    target.mkdir(parents=True)
    names = ["fog", "frost"]
    for number, name in enumerate(names):
        np.save(target / f"{name}.npy", np.full((18, 12, 12, 3), number, np.uint8))
    sha256 = {name: files.sha256(target / f"{name}.npy") for name in names}
    return corrupted_images(names, [1, 2]).model_copy(update={"path": str(target), "sha256": sha256})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_corruption_is_named(corrupted: Any, damage: Callable[[Path], Any]) -> None:
    intact.check_corrupted(corrupted)
    path = Path(corrupted.path) / "frost.npy"
    damage(path)
    with pytest.raises(UserError) as error:
        intact.check_corrupted(corrupted)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith(MEND.format("corrupt"))


def test_a_corruption_without_a_checksum_is_refused(corrupted: Any) -> None:
    bare = corrupted.model_copy(update={"sha256": {"fog": corrupted.sha256["fog"]}})
    with pytest.raises(UserError, match=r"frost\.npy: is not what was made"):
        intact.check_corrupted(bare)


def test_checksums_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], files.sha256

    def counted(path: Path) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(files, "sha256", counted)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"abc")
    known = original(path)
    for _ in range(3):
        assert checksums.problem(path, known, 3) is None
    assert len(read) == 1
    path.write_bytes(b"abd")
    assert checksums.problem(path, known, 3) == "is damaged: its bytes are not those that were written"
    assert checksums.problem(path, known, 4) == "is damaged: it has 3 bytes, 4 were written"
    assert checksums.problem(tmp_path, known, 3) == "is no file"
    assert checksums.problem(tmp_path / "none", known, 3) == "is missing"
