"""The corrupted copies of a dataset's test images as files, in the layout of CIFAR-10-C: made here, or published."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import PIL.features

from normbench.corruptions import check_names, corrupt
from normbench.corruptions.constants import SEVERITIES, set_for
from normbench.corruptions.imagecorruptions_engine import check_side, corrupt_with_imagecorruptions
from normbench.corruptions.operators import Bytes
from normbench.errors import UserError
from normbench.files import atomic_folder, read_json, sha256, write_json
from normbench.progress import Progress

IMAGES = 1000  # images in memory at a time

Maker = Callable[[str, int, np.ndarray], Bytes]  # name, severity, numbers of the images: their corrupted copies


def write_corrupted(
    source: Path,
    target: Path,
    names: list[str],
    severities: list[int],
    seed: int,
    engine: str = "normbench",
    constants: str = "auto",
) -> None:
    """Corrupts the test images of the prepared dataset `source` into the folder `target`, all of it or nothing.

    `engine`: normbench, or imagecorruptions, whose constants are always those of imagenet. `constants`: as for
    `corrupt`, `auto` for its default. For each name `<name>.npy`, uint8 (S * N, H, W, C), one block of N images in test
    order for each of the S ascending severities; `labels.npy`, the labels as often (uint8; int64 above 255 classes);
    `meta.json`: names, severities, engine, constants, seed, published (null), source_fingerprint, the sha256 of each
    file and the versions that its bytes depend on. UserError where an argument is not valid.
    """
    _check(names, severities)
    images = np.load(source / "test_images.npy", mmap_mode="r")
    side = images.shape[1]
    if engine == "imagecorruptions":
        check_side(side)
        used = "imagenet"
    else:
        used = set_for(side) if constants == "auto" else constants

    def make(name: str, severity: int, index: np.ndarray) -> Bytes:
        if engine == "imagecorruptions":
            return corrupt_with_imagecorruptions(images[index], name, severity, seed, index)
        return corrupt(images[index], name, severity, seed, index, used)

    origin = {"engine": engine, "constants": used, "seed": seed, "published": None, "versions": versions(engine)}
    _write(source, target, names, severities, make, origin)


def copy_published(source: Path, target: Path, names: list[str], severities: list[int], published: Path) -> None:
    """Takes the corrupted test images of the prepared dataset `source` from files in the layout of CIFAR-10-C.

    `published` has `<name>.npy`, uint8 (5 N, H, W, C), severity 1 first, and `labels.npy`, (5 N,). Writes what
    `write_corrupted` writes, with null for what is not known. UserError where a file does not fit the dataset.
    """
    _check(names, severities)
    shape = np.load(source / "test_images.npy", mmap_mode="r").shape
    labels = np.load(source / "test_labels.npy")
    count = len(labels)
    path = published / "labels.npy"
    stored = _mapped(path)
    if stored.dtype.kind not in "iu" or stored.shape != (5 * count,):
        raise UserError(f"{path}: {stored.dtype} of shape {stored.shape}, but needs integers of shape {(5 * count,)}")
    differing = np.count_nonzero(stored != np.tile(labels, 5))
    if differing:
        raise UserError(f"{path}: {differing} of {5 * count} labels are not those of the test images of {source.name}")
    arrays = {name: _mapped(published / f"{name}.npy") for name in names}
    for name, array in arrays.items():
        if array.dtype != np.uint8 or array.shape != (5 * count, *shape[1:]):
            raise UserError(
                f"{published / name}.npy: {array.dtype} of shape {array.shape}, "
                f"but {source.name} needs uint8 of shape {(5 * count, *shape[1:])}"
            )

    def make(name: str, severity: int, index: np.ndarray) -> Bytes:
        return arrays[name][(severity - 1) * count + index]

    origin: dict[str, Any] = {
        "engine": None,
        "constants": None,
        "seed": None,
        "published": str(published),
        "versions": {},
    }
    _write(source, target, names, severities, make, origin)


def _check(names: list[str], severities: list[int]) -> None:
    check_names(names)
    if not severities or list(severities) != [level for level in SEVERITIES if level in severities]:
        raise UserError(f"severities {severities}: valid: some of 1, 2, 3, 4, 5, ascending")


def _mapped(path: Path) -> np.ndarray:
    """The array of a file, which is not read into memory; objects, which would be unpickled, are refused."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not an array that can be mapped: {error}") from None


def _write(
    source: Path, target: Path, names: list[str], severities: list[int], make: Maker, origin: dict[str, Any]
) -> None:
    shape = np.load(source / "test_images.npy", mmap_mode="r").shape
    labels = np.load(source / "test_labels.npy")
    dataset: dict[str, Any] = read_json(source / "meta.json")
    count = len(labels)
    rows = len(severities) * count
    hashes: dict[str, str] = {}
    with atomic_folder(target) as folder, Progress(f"corrupt {source.name}", total=len(names) * rows) as progress:
        for position, name in enumerate(names):
            out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (rows, *shape[1:]))
            for block, severity in enumerate(severities):
                for start in range(0, count, IMAGES):
                    index = np.arange(start, min(start + IMAGES, count))
                    out[block * count + index] = make(name, severity, index)
                    progress.update(position * rows + block * count + int(index[-1]) + 1, f"{name} {severity}")
            out.flush()
            hashes[name] = sha256(folder / f"{name}.npy")
        label_type = np.int64 if dataset["classes"] > 255 else np.uint8
        np.save(folder / "labels.npy", np.tile(labels.astype(label_type), len(severities)))
        meta = {
            "names": list(names),
            "severities": list(severities),
            "source_fingerprint": dataset["fingerprint"],
            "sha256": hashes,
            **origin,
        }
        write_json(folder / "meta.json", meta)
        progress.close(f"{len(names)} corruptions, {len(severities)} severities, {count} images")


def versions(engine: str) -> dict[str, str | None]:
    """The versions of what draws, of what codes JPEG, and of what imagecorruptions calls."""
    called = ("imagecorruptions", "opencv-python", "scikit-image", "scipy") if engine == "imagecorruptions" else ()
    return {
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": PIL.features.version("libjpeg_turbo"),
        **{name: importlib.metadata.version(name) for name in called},
    }
