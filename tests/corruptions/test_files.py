"""Corrupted images as files: their layout, what is noted about them, and that they are whole or not there."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.corruptions import corrupt
from normbench.corruptions.files import write_corrupted
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.suite import corrupt as stage
from normbench.system import files, layout
from normbench.system.errors import UserError
from tests.support.scenes import crops, prepared


def test_files_have_the_layout_of_the_benchmark(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("normbench.corruptions.files.IMAGES", 4)
    labels = prepared(layout.DATA / "scenes", images)
    wanted = {"names": ["impulse_noise", "contrast"], "severities": [2, 5], "seed": 11, "engine": "normbench"}
    files.write_json(layout.RESOLVED / "corruptions.json", {**wanted, "constants": "auto", "source": None})
    stage.corrupt("scenes")
    folder = layout.CORRUPTED / "scenes"
    assert sorted(path.name for path in folder.iterdir()) == [
        "contrast.npy",
        "impulse_noise.npy",
        "labels.npy",
        "meta.json",
    ]
    for name in wanted["names"]:
        stored = np.load(folder / f"{name}.npy")
        np.testing.assert_array_equal(stored, np.concatenate([corrupt(images, name, level, 11) for level in (2, 5)]))
        assert stored.dtype == np.uint8
    stored = np.load(folder / "labels.npy")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, np.concatenate([labels, labels]))
    meta = files.read_json(folder / "meta.json")
    versions, hashes = meta.pop("versions"), meta.pop("sha256")
    for name in wanted["names"]:
        assert hashes[name] == hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
    assert meta == {**wanted, "constants": "cifar", "published": None, "source_fingerprint": "f" * 64}
    assert versions["numpy"] == np.__version__
    assert versions["pillow"] == Image.__version__


@pytest.mark.parametrize(
    ("engine", "constants", "used"),
    [("normbench", "auto", "cifar"), ("normbench", "imagenet", "imagenet"), ("imagecorruptions", "auto", "imagenet")],
)
def test_files_of_an_engine(engine: str, constants: str, used: str, tmp_path: Path, images: np.ndarray) -> None:
    prepared(tmp_path / "scenes", images)
    write_corrupted(tmp_path / "scenes", tmp_path / "out", ["impulse_noise"], [3], 4, engine, constants)
    meta = files.read_json(tmp_path / "out/meta.json")
    assert (meta["engine"], meta["constants"], meta["seed"]) == (engine, used, 4)
    assert ("scikit-image" in meta["versions"]) == (engine == "imagecorruptions")
    make = corrupt_with_imagecorruptions if engine == "imagecorruptions" else functools.partial(corrupt, constants=used)
    np.testing.assert_array_equal(np.load(tmp_path / "out/impulse_noise.npy"), make(images, "impulse_noise", 3, 4))


def test_an_engine_refuses_small_images(tmp_path: Path, scene: np.ndarray) -> None:
    prepared(tmp_path / "scenes", crops(scene, 28, 1))
    with pytest.raises(UserError, match=r"^images of 28 x 28: imagecorruptions needs a side of 32 pixels or more$"):
        write_corrupted(tmp_path / "scenes", tmp_path / "out", ["fog"], [1], 0, "imagecorruptions")


@pytest.mark.parametrize(("classes", "kind"), [(255, np.uint8), (256, np.int64)])
def test_labels_of_many_classes(tmp_path: Path, images: np.ndarray, classes: int, kind: type) -> None:
    labels = prepared(tmp_path / "many", images, classes)
    write_corrupted(tmp_path / "many", tmp_path / "out", ["contrast"], [1], 0)
    stored = np.load(tmp_path / "out/labels.npy")
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, labels)


def test_files_are_whole_or_as_before(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "scenes", images)
    write_corrupted(tmp_path / "scenes", tmp_path / "out", ["contrast"], [1], 0)
    before = (tmp_path / "out/contrast.npy").read_bytes()

    def full(images: np.ndarray, name: str, *rest: Any) -> np.ndarray:
        if name == "fog":
            raise OSError(28, "No space left on device")
        return corrupt(images, name, *rest)

    monkeypatch.setattr("normbench.corruptions.files.corrupt", full)
    with pytest.raises(OSError, match="No space"):
        write_corrupted(tmp_path / "scenes", tmp_path / "out", ["contrast", "fog"], [2], 0)
    assert (tmp_path / "out/contrast.npy").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scenes"]


@pytest.mark.parametrize(
    ("names", "severities", "line"),
    [
        (["contrast", "fogg"], [1], "unknown corruption 'fogg': did you mean 'fog'?"),
        (["contrast"], [], "severities []: valid: some of 1, 2, 3, 4, 5, ascending"),
        (["contrast"], [1, 6], "severities [1, 6]: valid: some of 1, 2, 3, 4, 5, ascending"),
        (["contrast"], [2, 1], "severities [2, 1]: valid: some of 1, 2, 3, 4, 5, ascending"),
    ],
)
def test_files_are_refused_before_any_work(
    tmp_path: Path, images: np.ndarray, names: list[str], severities: list[int], line: str
) -> None:
    prepared(tmp_path / "scenes", images)
    with pytest.raises(UserError) as caught:
        write_corrupted(tmp_path / "scenes", tmp_path / "out", names, severities, 0)
    assert str(caught.value) == line
    assert not (tmp_path / "out").exists()
