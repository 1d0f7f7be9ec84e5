"""Files of a published benchmark, in place of computed ones: what is taken and what is refused."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.corruptions import corrupt
from normbench.corruptions.constants import SEVERITIES
from normbench.corruptions.files import copy_published
from normbench.suite import corrupt as stage
from normbench.system import files, layout
from normbench.system.errors import UserError
from tests.support.scenes import prepared


@pytest.fixture
def published(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of CIFAR-10-C, for the dataset `scenes`."""
    monkeypatch.chdir(tmp_path)
    labels = prepared(layout.DATA / "scenes", images)
    folder = tmp_path / "scenes-C"
    folder.mkdir()
    for name in ("fog", "frost"):
        np.save(folder / f"{name}.npy", np.concatenate([corrupt(images, name, level) for level in SEVERITIES]))
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return folder


def test_published_files_are_taken(published: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.corruptions.files.IMAGES", 4)
    wanted = {"names": ["frost"], "severities": [2, 5], "seed": 0, "engine": "normbench", "constants": "auto"}
    wanted["source"] = f"{published.parent}/{{dataset}}-C"
    files.write_json(layout.RESOLVED / "corruptions.json", wanted)
    stage.corrupt("scenes")
    folder = layout.CORRUPTED / "scenes"
    assert sorted(path.name for path in folder.iterdir()) == ["frost.npy", "labels.npy", "meta.json"]
    blocks = np.load(published / "frost.npy").reshape(5, *images.shape)
    np.testing.assert_array_equal(np.load(folder / "frost.npy"), np.concatenate([blocks[1], blocks[4]]))
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.load(published / "labels.npy")[: 2 * len(images)])
    meta = files.read_json(folder / "meta.json")
    assert meta.pop("sha256") == {"frost": hashlib.sha256((folder / "frost.npy").read_bytes()).hexdigest()}
    unknown = {"engine": None, "constants": None, "seed": None, "versions": {}}
    chosen = {"names": ["frost"], "severities": [2, 5], "published": str(published), "source_fingerprint": "f" * 64}
    assert meta == unknown | chosen


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no folder", "{}/labels.npy: no such file"),
        ("no array", "{}/fog.npy: no such file"),
        ("other labels", "{}/labels.npy: 2 of 30 labels are not those of the test images of scenes"),
        ("fewer labels", "{}/labels.npy: uint8 of shape (6,), but needs integers of shape (30,)"),
        ("real labels", "{}/labels.npy: float64 of shape (30,), but needs integers of shape (30,)"),
        ("one severity", "{}/fog.npy: uint8 of shape (6, 32, 32, 3), but scenes needs uint8 of shape (30, 32, 32, 3)"),
        ("type", "{}/fog.npy: float32 of shape (30, 32, 32, 3), but scenes needs uint8 of shape (30, 32, 32, 3)"),
        ("cut off", "{}/fog.npy: not an array that can be mapped: mmap length is greater than file size"),
        ("text", "{}/fog.npy: not an array that can be mapped: the magic string is not correct; *"),
        ("empty", "{}/fog.npy: not an array that can be mapped: EOF: reading magic string, *"),
        ("objects", "{}/fog.npy: not an array that can be mapped: Array can't be memory-mapped: Python objects *"),
    ],
)
def test_published_files_that_do_not_fit(published: Path, fault: str, line: str) -> None:
    fog, labels = published / "fog.npy", published / "labels.npy"
    known, content = np.load(labels), fog.read_bytes()
    if fault == "no folder":
        shutil.rmtree(published)
    elif fault == "no array":
        fog.unlink()
    elif fault in ("other labels", "fewer labels", "real labels"):
        changed = np.where(np.arange(30) < 2, 7, known)
        np.save(labels, {"o": changed, "f": known[:6], "r": known.astype(float)}[fault[0]])
    elif fault == "one severity":
        np.save(fog, np.load(fog)[:6])
    elif fault == "type":
        np.save(fog, np.load(fog).astype(np.float32))
    elif fault == "objects":
        np.save(fog, np.array([Trap()] * 30, object), allow_pickle=True)
    else:
        fog.write_bytes({"cut off": content[:-1], "text": b"a note, " * 20, "empty": b""}[fault])
    with pytest.raises(UserError) as caught:
        copy_published(layout.DATA / "scenes", layout.CORRUPTED / "scenes", ["fog"], [1], published)
    found = str(caught.value)
    assert fnmatch.fnmatchcase(found, line.format(published).replace("[", "[[]"))
    assert "\n" not in found
    assert not layout.CORRUPTED.exists()
    assert not Path("unpickled").exists()
