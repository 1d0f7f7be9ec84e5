"""Small datasets for tests of data sources: they are created, prepared by the download stage, and compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normbench.data.arrays import ARRAYS
from normbench.data.sources.base import COMMON_KEYS
from normbench.system import files
from normbench.system.size import sides
from stages import download


def spec(source: str, **given: Any) -> dict[str, Any]:
    """Returns the resolved dataset `mine`; the common keys that are not given are null."""
    return {"name": "mine", "source": source, "source_code": "", **dict.fromkeys(COMMON_KEYS[1:]), **given}


def prepared(source: str, **given: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the meta.json of the download stage, after checks that hold for every source."""
    files.write_json("build/resolved/datasets/mine.json", spec(source, **given))
    download.download("mine")
    folder = Path("build/data/mine")
    names = [f"{n}.npy" for n in ARRAYS] + ["meta.json"] + (["test_files.json"] if source == "imagefolder" else [])
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
    meta = files.read_json(folder / "meta.json")
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == (meta[split], *sides(meta["image_size"]), meta["channels"])
        assert labels.shape == (meta[split],)
        assert labels.min() >= 0
        assert labels.max() < meta["classes"]
    return arrays, meta


def by_hand(arrays: dict[str, np.ndarray]) -> str:
    """Returns the fingerprint computed as documented, by independent code."""
    text = b""
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        kind = "uint8" if name.endswith("images") else "int64"
        shape = "x".join(str(length) for length in arrays[name].shape)
        text += f"{name} {kind} {shape}\n".encode() + arrays[name].astype(kind).tobytes()
    return hashlib.sha256(text).hexdigest()


def pictures(count: int, size: int, channels: int, seed: int = 0) -> np.ndarray:
    """Returns random images, uint8 (count, size, size, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Asserts that the four arrays are equal."""
    for name in ARRAYS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def md5(content: bytes) -> str:
    """Returns the hexadecimal md5 of bytes."""
    return hashlib.md5(content).hexdigest()


def own_arrays() -> dict[str, np.ndarray]:
    """Returns random colour images of 12 x 12 pixels in three classes: 30 for training and 9 for the test."""
    arrays = {"train_images": pictures(30, 12, 3), "train_labels": np.arange(30, dtype=np.int16) % 3}
    return arrays | {"test_images": pictures(9, 12, 3, seed=1), "test_labels": np.arange(9, dtype=np.uint8) % 3}


def write_npz(arrays: dict[str, Any]) -> dict[str, str]:
    """Writes own.npz and returns the options of the source npz for it."""
    np.savez("own.npz", **arrays)
    return {"path": "own.npz", "sha256": files.sha256("own.npz")}


def image(path: str, colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> None:
    """Writes an image file of one colour."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def pets() -> str:
    """Writes the image folder `pets` and returns its name.

    It has two classes, each with three training images and two test images.
    """
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                image(f"pets/{split}/{name}/{index}.png", (10 * index, 100 * label, 50 + index))
    return "pets"
