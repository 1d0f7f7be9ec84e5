"""The four arrays of a dataset: validation, resizing, writing, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from normbench.data.sources.base import Request
from normbench.system import npy
from normbench.system.errors import UserError
from normbench.system.progress import Progress

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
BATCH = 1024  # images processed at a time, where a dataset may be larger than the memory


def save(arrays: Mapping[str, np.ndarray], request: Request, out: Path) -> None:
    """Writes the four arrays into the folder `out`, with images of the size that the request asks for.

    arrays: by the names in ARRAYS, in a form that `checked` accepts. Raises UserError if they are not valid.
    """
    complete = checked(arrays, f"dataset '{request.dataset}'")
    for name, array in complete.items():
        if name.endswith("images") and request.image_size is not None:
            array = resize(array, request.image_size, f"{request.dataset} {name}")
        npy.save(out / f"{name}.npy", array)


def checked(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The four arrays in the form in which they are stored, in the order of ARRAYS.

    Images are accepted as uint8 (N, H, W, C), or as (N, H, W) if they are grey, and returned as (N, H, W, C). Labels
    are accepted as integers (N,) of any type, and returned as int64. Images must be square with 1 or 3 channels and
    have the same shape in both splits. Every image must have a label. The training labels must count from 0 without
    gaps, and the test set must not have other labels. Raises UserError otherwise, with one line that begins with
    `where`.
    """
    result: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        result[f"{split}_images"] = _checked_images(arrays[f"{split}_images"], f"{where}: {split}_images")
        images, labels = result[f"{split}_images"], arrays[f"{split}_labels"]
        if not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"{where}: {split}_labels are {labels.dtype}, integers are needed")
        if labels.shape != images.shape[:1]:
            raise UserError(f"{where}: {split}_labels are {_by(labels.shape)} for {len(images)} {split}_images")
        labels = labels.astype(np.int64, copy=False)
        if labels.min() < 0:
            raise UserError(f"{where}: {split}_labels have {labels.min()}; labels count from 0")
        result[f"{split}_labels"] = labels
    train, test = (result[f"{split}_images"].shape[1:] for split in ("train", "test"))
    if train != test:
        raise UserError(f"{where}: train_images are {_by(train)}, test_images are {_by(test)}")
    present, count = np.unique(result["train_labels"]), int(result["train_labels"].max()) + 1
    if len(present) != count:
        absent = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise UserError(
            f"{where}: train_labels go up to {count - 1} without any {absent}; labels count from 0, no gaps"
        )
    largest = result["test_labels"].max()
    if largest >= count:
        raise UserError(f"{where}: test_labels have {largest}, the largest of train_labels is {count - 1}")
    return result


def _checked_images(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise UserError(f"{what} are {images.dtype}, uint8 (0..255) is needed")
    complete = images[..., None] if images.ndim == 3 else images
    if complete.ndim == 4 and complete.size:
        _, height, width, channels = complete.shape
        if height == width and channels in (1, 3):
            return complete
    raise UserError(f"{what} are {_by(images.shape)}; N x H x W x C is needed, H = W, C 1 or 3")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def resize(images: np.ndarray, size: int, title: str) -> np.ndarray:
    """Resizes images, uint8 (N, H, W, C) -> (N, size, size, C), with Pillow's bilinear filter (antialiased).

    title: names the images in the progress bar.
    """
    count, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    resized = np.empty((count, size, size, channels), np.uint8)
    with Progress(f"resize {title}", total=count) as progress:
        for index, image in enumerate(images):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            resized[index] = np.asarray(picture).reshape(size, size, channels)
            progress.update(index + 1, f"{index + 1} of {count}")
    return resized


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Hexadecimal sha256 over the four arrays, in the order train_images, train_labels, test_images, test_labels.

    Each array contributes the line `<name> <dtype> <shape, joined by x>\\n` in ASCII, e.g. `train_labels int64 1437`,
    and then its bytes in C order, integers little-endian.
    """
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {'x'.join(map(str, array.shape))}\n".encode("ascii"))
        little_endian = array.dtype.newbyteorder("<")
        for start in range(0, len(array), BATCH):
            digest.update(np.ascontiguousarray(array[start : start + BATCH], little_endian).tobytes())
    return digest.hexdigest()
