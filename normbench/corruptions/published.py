"""The files of a published benchmark such as CIFAR-10-C, taken in place of computed images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from normbench.corruptions.files import check_choice, write_folder
from normbench.corruptions.operators import Bytes
from normbench.system.arrays import as_images, as_labels, by, map_npy
from normbench.system.errors import UserError


def copy_published(source: Path, target: Path, names: list[str], severities: list[int], published: Path) -> None:
    """Copies the corrupted test images of the prepared dataset `source` from files in the layout of CIFAR-10-C.

    published: the folder with `<name>.npy`, uint8 (5 N, H, W, C), or (5 N, H, W) for grey images, severity 1 first, and
    `labels.npy` with the labels of all 5 N or of the N images. Where only one severity is asked for, and the labels are
    those of N images, an array of N images is that severity. Writes the same files as `write_corrupted`, with null for
    unknown facts. Raises UserError if a file does not fit the dataset.
    """
    chosen = check_choice(names, severities)
    if not published.is_dir():
        raise UserError(f"{published}: {'a file; unpack it' if published.is_file() else 'no such folder'}")
    if not any(published.glob("*.npy")):
        files = f"{names[0]}.npy and labels.npy, nor image files in {names[0]}/{severities[0]}/<class>"
        raise UserError(f"{published}: has neither {files}")
    shape = np.load(source / "test_images.npy", mmap_mode="r").shape
    once = check_labels(published / "labels.npy", np.load(source / "test_labels.npy"), source.name)
    arrays = {}
    for name, reference in chosen.items():
        path = published / f"{name}.npy"
        if not path.exists():
            found = sorted(file.stem for file in published.glob("*.npy") if file.stem != "labels")
            raise UserError(f"{path}: no such file; published are {', '.join(found) or 'none'}: `names` chooses them")
        arrays[reference] = _fitting(map_npy(path), path, shape, source.name, severities if once else [])

    def make(name: str, severity: int, index: np.ndarray) -> Bytes:
        array = arrays[name]
        return array[index] if len(array) == shape[0] else array[(severity - 1) * shape[0] + index]

    write_folder(source, target, chosen, severities, make, origin_of(published))


def origin_of(published: Path) -> dict[str, Any]:
    """The entries of meta.json on where published images came from."""
    return {"engine": None, "constants": None, "seed": None, "published": str(published), "versions": {}}


def check_labels(path: Path, labels: np.ndarray, dataset: str) -> bool:
    """Whether a published labels.npy has the labels of one severity; False where it has those of all five.

    labels: (N,), of the test images of the dataset. Raises UserError if the published labels are others.
    """
    stored, count = map_npy(path), len(labels)
    once = stored.shape[:1] == (count,)
    found = as_labels(stored, count if once else 5 * count, f"{path}: labels", f"images ({count} test images, 5 times)")
    differing = np.count_nonzero(found != np.tile(labels, 1 if once else 5))
    if differing:
        raise UserError(
            f"{path}: {differing} of {len(found)} labels are not those of the test images of {dataset}:"
            " another order of the images, or another dataset"
        )
    return once


def _fitting(array: np.ndarray, path: Path, shape: tuple[int, ...], dataset: str, severities: list[int]) -> Bytes:
    """The published images in the form (5 N, H, W, C), or (N, H, W, C) where one severity is asked for.

    shape: (N, H, W, C), of the test images. severities: those that are asked for, if the labels are those of N images.
    Raises UserError for other images.
    """
    if array.dtype != np.uint8:
        array = as_images(array, f"{path}: images")  # refuses floats, and says what would do
    count, height, width, channels = shape
    if array.shape[1:] == (height, width) and channels == 1:
        array = array[..., None]
    needed = f"{dataset} needs {by((5 * count, *shape[1:]))}"
    if array.shape[1:] != shape[1:]:
        chw = array.shape[1:] == (channels, height, width)
        advice = ": images.transpose(0, 2, 3, 1) brings the channels to the end" if chw else ""
        raise UserError(f"{path}: images are {by(array.shape)}, but {needed}{advice}")
    if len(array) == count and len(severities) == 1:
        return array
    if len(array) != 5 * count:
        only = len(array) == count
        advice = (
            "; if it has one severity, choose that in `severities`, with the labels of these images in labels.npy"
            if only
            else ""
        )
        raise UserError(f"{path}: images are {by(array.shape)}, but {needed}, 5 severities{advice}")
    return array
