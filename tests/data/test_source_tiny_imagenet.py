"""Tiny ImageNet, on a small archive of the official form behind a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.data.sources.registry import source_class
from normbench.system.errors import UserError
from tests.support.archive_server import Server
from tests.support.prepared import md5, pictures, prepared

pytestmark = pytest.mark.usefixtures("own_folders")

WORDS = ("n01443537", "n01629819", "n09246464")
TRAIN, VAL = pictures(6, 64, 3), pictures(4, 64, 3, seed=1)
VAL_CLASSES = (2, 0, 1, 0)


def jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def decoded(images: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg(image)))) for image in images])


def contents() -> dict[str, bytes]:
    """The files of the archive: classes in another order than that of their names, and what is not read."""
    found = {"wnids.txt": b"", "words.txt": b"", "test/images/test_0.JPEG": jpeg(VAL[0])}
    for number, label in enumerate((2, 2, 0, 0, 1, 1)):
        word = WORDS[label]
        found[f"train/{word}/images/{word}_{number}.JPEG"] = jpeg(TRAIN[number])
        found[f"train/{word}/{word}_boxes.txt"] = b"boxes"
    lines = [f"val_{i}.JPEG\t{WORDS[label]}\t0\t0\t9\t9\n" for i, label in enumerate(VAL_CLASSES)]
    found["val/val_annotations.txt"] = "".join(lines).encode()
    return found | {f"val/images/val_{i}.JPEG": jpeg(image) for i, image in enumerate(VAL)}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The archive, on the server."""
    made = zipped({f"tiny-imagenet-200/{name}": content for name, content in contents().items()})
    serve(made, server, monkeypatch)
    return made


def serve(content: bytes, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.contents["tiny-imagenet-200.zip"] = content
    kind = source_class("tiny_imagenet")
    address = f"{server.address}tiny-imagenet-200.zip"
    changed = dataclasses.replace(kind.archive, checksum=md5(content), addresses=(address,), largest=len(content))
    monkeypatch.setattr(kind, "archive", changed)


def check(arrays: dict[str, np.ndarray]) -> None:
    order = [2, 3, 4, 5, 0, 1]  # by class, in the order of the names
    assert np.array_equal(arrays["train_images"], decoded(TRAIN[order]))
    assert arrays["train_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(arrays["test_images"], decoded(VAL))  # in the order of the list of their classes
    assert arrays["test_labels"].tolist() == list(VAL_CLASSES)


def test_the_archive(server: Server, archive: bytes) -> None:
    arrays, meta = prepared("tiny_imagenet")
    check(arrays)
    assert meta["class_names"] == list(WORDS)
    assert meta["origin"] == f"{server.address}tiny-imagenet-200.zip"
    assert meta["sha256"] == hashlib.sha256(archive).hexdigest()
    assert not list(Path("downloads").rglob("*boxes*"))
    assert not list(Path("downloads").rglob("test_0.JPEG"))
    server.log.clear()
    assert prepared("tiny_imagenet")[1] == meta
    assert server.log == []


def test_another_size(archive: bytes) -> None:
    arrays, _ = prepared("tiny_imagenet", image_size=32)
    assert arrays["train_images"].shape == (6, 32, 32, 3)


@pytest.mark.parametrize("place", ["downloads", "downloads/tiny_imagenet", "here"])
def test_an_unpacked_folder(server: Server, archive: bytes, place: str) -> None:
    for name, content in contents().items():
        path = Path(place) / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    arrays, meta = prepared("tiny_imagenet", mirror="here" if place == "here" else None)
    check(arrays)
    assert (meta["origin"], meta["sha256"]) == (f"{place}/tiny-imagenet-200 (train, val)", None)
    assert server.log == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "truncated, damaged or of another form"),
        (zipped({"other/train/n1/images/a.JPEG": b"x"}), "has no tiny-imagenet-200/train"),
        (zipped({"tiny-imagenet-200/train/../../../../evil/images/a.JPEG": b"x"}), "has no tiny-imagenet-200/train"),
    ],
)
def test_bad_archives(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    serve(content, server, monkeypatch)
    with pytest.raises(UserError, match=message):
        prepared("tiny_imagenet")
    assert not Path("build/data/mine").exists()
    assert not list(Path().rglob("evil"))


def test_an_archive_that_is_too_large(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from normbench.data.sources import tiny_imagenet

    monkeypatch.setattr(tiny_imagenet, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"more than 1\.0 kB when it is decompressed"):
        prepared("tiny_imagenet")
