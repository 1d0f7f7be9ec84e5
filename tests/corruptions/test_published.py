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
from normbench.corruptions.published import copy_published
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


@pytest.mark.parametrize(
    "form", ["column", "floats", "once", "once in a column", "fortran", "int64", "one severity", "grey"]
)
def test_what_has_one_reading_is_taken(published: Path, images: np.ndarray, form: str) -> None:
    labels, fog = np.load(published / "labels.npy"), np.load(published / "fog.npy")
    wanted = fog[12:18]  # severity 3
    if form == "grey":
        np.save(layout.DATA / "scenes/test_images.npy", images[..., :1])
        fog, wanted = fog[..., 0], wanted[..., :1]
    if form == "one severity":
        labels, fog = labels[:6], wanted
    changed = {"column": labels[:, None], "floats": labels.astype(float), "once": labels[:6]}
    changed["once in a column"] = labels[:6, None]
    np.save(published / "labels.npy", changed.get(form, labels))
    np.save(published / "fog.npy", {"fortran": np.asfortranarray(fog), "int64": fog.astype(int)}.get(form, fog))
    copy_published(layout.DATA / "scenes", layout.CORRUPTED / "scenes", ["fog"], [3], published)
    np.testing.assert_array_equal(np.load(layout.CORRUPTED / "scenes/fog.npy"), wanted)
    np.testing.assert_array_equal(np.load(layout.CORRUPTED / "scenes/labels.npy"), labels[:6])


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no folder", "{}: no such folder"),
        ("nothing", "{}: has neither fog.npy and labels.npy, nor image files in fog/1/<class>"),
        ("no labels", "{}/labels.npy: no such file"),
        ("no array", "{}/fog.npy: no such file; published are frost: `names` chooses them"),
        (
            "other labels",
            "{}/labels.npy: 2 of 30 labels are not those of the test images of scenes:"
            " another order of the images, or another dataset",
        ),
        ("fewer labels", "{}/labels.npy: labels are 7 for 30 images (6 test images, 5 times)"),
        ("half labels", "{}/labels.npy: labels have 0.5; whole numbers are needed"),
        ("object labels", "{}/labels.npy: is an array of Python objects, which is never read, *"),
        ("one severity", "{}/fog.npy: images are 6 x 32 x 32 x 3, but scenes needs 30 x 32 x 32 x 3, 5 severities; *"),
        ("few images", "{}/fog.npy: images are 29 x 32 x 32 x 3, but scenes needs 30 x 32 x 32 x 3, 5 severities"),
        ("grey", "{}/fog.npy: images are 30 x 32 x 32, but scenes needs 30 x 32 x 32 x 3"),
        ("type", "{}/fog.npy: images are float32, uint8 (0..255) is needed: for values in 0..1, (255 * images).*"),
        ("chw", "{}/fog.npy: images are 30 x 3 x 32 x 32, *: images.transpose(0, 2, 3, 1) brings the channels *"),
        ("cut off", "{}/fog.npy: is damaged or truncated: mmap length is greater than file size"),
        ("text", "{}/fog.npy: not an .npy file"),
        ("empty", "{}/fog.npy: empty, not an .npy file"),
        ("page", "{}/fog.npy: a web page, not an .npy file: *"),
        ("zip", "{}/fog.npy: an .npz file, not an .npy file"),
        ("objects", "{}/fog.npy: is an array of Python objects, which is never read, because it can run code; *"),
    ],
)
def test_published_files_that_do_not_fit(published: Path, fault: str, line: str) -> None:
    fog, labels = published / "fog.npy", published / "labels.npy"
    known, content = np.load(labels), fog.read_bytes()
    if fault == "no folder":
        shutil.rmtree(published)
    elif fault == "nothing":
        for path in published.iterdir():
            path.unlink()
    elif fault == "no array":
        fog.unlink()
    elif fault == "no labels":
        labels.unlink()
    elif fault in ("other labels", "fewer labels", "half labels"):
        changed = np.where(np.arange(30) < 2, 7, known)
        np.save(labels, {"o": changed, "f": known[:7], "h": known / 2}[fault[0]])
    elif fault == "object labels":
        np.save(labels, known.astype(object), allow_pickle=True)
    elif fault in ("one severity", "few images"):
        np.save(fog, np.load(fog)[: 6 if fault == "one severity" else 29])
    elif fault == "type":
        np.save(fog, np.load(fog).astype(np.float32) / 255)
    elif fault == "grey":
        np.save(fog, np.load(fog)[..., 0])
    elif fault == "chw":
        np.save(fog, np.load(fog).transpose(0, 3, 1, 2))
    elif fault == "zip":
        np.savez(published / "fog.npz", np.load(fog))
        (published / "fog.npz").rename(fog)
    elif fault == "objects":
        np.save(fog, np.array([Trap()] * 30, object), allow_pickle=True)
    else:
        fog.write_bytes(
            {"cut off": content[:-1], "text": b"a note, " * 20, "empty": b"", "page": b"<html><body>"}[fault]
        )
    with pytest.raises(UserError) as caught:
        copy_published(layout.DATA / "scenes", layout.CORRUPTED / "scenes", ["fog"], [1], published)
    found = str(caught.value)
    assert fnmatch.fnmatchcase(found, line.format(published).replace("[", "[[]"))
    assert "\n" not in found
    assert not layout.CORRUPTED.exists()
    assert not Path("unpickled").exists()
