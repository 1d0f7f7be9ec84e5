"""The four arrays of a dataset: names, validation, resizing, writing, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from normbench.data.sources.base import Request
from normbench.system import npy
from normbench.system.arrays import as_images, as_labels, by
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.size import Size, sides

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MASKED = ("train_images", "train_masks", "test_images", "test_masks")  # of a dataset of segmentation
# Beside the arrays of a dataset of image files: its `files`, `<class>/<file>` for each test image, and its `background`
# (see `Origin`).
TEST_FILES = "test_files.json"
# Of a dataset whose training images stay in their files (see `normbench.data.stream`): the paths of these, and the
# arrays that make its content.
TRAIN_FILES = "train_files"
STREAMED = ("train_sha256", "train_sizes", "train_labels", "test_images", "test_labels")
BATCH = 1024  # most images processed at a time, where a dataset may be larger than the memory
BYTES = 1 << 26  # most bytes of such images


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

    Images and labels are accepted as `normbench.system.arrays` reads them, and returned as uint8 (N, H, W, C) and int64
    (N,). Images must have the same shape in both splits, and every image must have a label. The training labels must
    count from 0 without gaps, and the test set must not have other labels. Raises UserError otherwise, with one line
    that begins with `where`.
    """
    result: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        images, labels = f"{split}_images", f"{split}_labels"
        result[images] = as_images(arrays[images], f"{where}: {images}")
        result[labels] = as_labels(arrays[labels], len(result[images]), f"{where}: {labels}", images)
    train, test = (result[f"{split}_images"].shape[1:] for split in ("train", "test"))
    if train != test:
        raise UserError(f"{where}: train_images are {by(train)}, test_images are {by(test)}")
    one_hot = [arrays[f"{split}_labels"].shape for split in ("train", "test")]
    if all(len(shape) == 2 and min(shape) > 1 for shape in one_hot) and one_hot[0][1] != one_hot[1][1]:
        raise UserError(f"{where}: train_labels have {one_hot[0][1]} columns, test_labels have {one_hot[1][1]}")
    present, count = np.unique(result["train_labels"]), int(result["train_labels"].max()) + 1
    if len(present) != count:
        absent = int(np.flatnonzero(present != np.arange(len(present)))[0])
        advice = f": subtract {present[0]}" if count - present[0] == len(present) else ""
        raise UserError(
            f"{where}: train_labels go up to {count - 1} without any {absent}; labels count from 0, no gaps{advice}"
        )
    largest = result["test_labels"].max()
    if largest >= count:
        raise UserError(f"{where}: test_labels have {largest}, the largest of train_labels is {count - 1}")
    return result


def resize(images: np.ndarray, size: Size, title: str) -> np.ndarray:
    """Resizes images, uint8 (N, H, W, C), to height and width with Pillow's bilinear filter (antialiased).

    title: names the images in the progress bar.
    """
    count, *before, channels = images.shape
    height, width = sides(size)
    if before == [height, width]:
        return images
    resized = np.empty((count, height, width, channels), np.uint8)
    with Progress(f"resize {title}", total=count) as progress:
        for index, image in enumerate(images):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            resized[index] = np.asarray(picture).reshape(height, width, channels)
            progress.update(index + 1, f"{index + 1} of {count}")
    return resized


def at_a_time(array: np.ndarray) -> int:
    """How many images or labels of an array are processed at a time; no result depends on it."""
    return max(1, min(BATCH, BYTES // max(1, array[:1].nbytes)))


def names_in(folder: Path) -> tuple[str, ...]:
    """The names of the arrays that make the content of the prepared dataset in a folder."""
    if (folder / f"{TRAIN_FILES}.npy").exists():
        return STREAMED
    masked = any((folder / f"{name}.npy").exists() for name in MASKED if name.endswith("masks"))
    return MASKED if masked else ARRAYS


def fingerprint(arrays: Mapping[str, np.ndarray], stream: object = None) -> str:
    """Hexadecimal sha256 over the arrays, in the order train_images, train_labels, test_images, test_labels.

    Of streamed images it is over `stream`, how they are read, as a line of JSON, and the arrays of STREAMED.

    A dataset of segmentation has masks in the place of the labels.

    Each array contributes the line `<name> <dtype> <shape, joined by x>\\n` in ASCII, e.g. `train_labels int64 1437`,
    and then its bytes in C order, integers little-endian.
    """
    digest = hashlib.sha256()
    if stream is not None:
        digest.update(json.dumps(stream, sort_keys=True).encode() + b"\n")
    for name in STREAMED if stream is not None else MASKED if "train_masks" in arrays else ARRAYS:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {'x'.join(map(str, array.shape))}\n".encode("ascii"))
        little_endian = array.dtype.newbyteorder("<")
        rows = at_a_time(array)
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows], little_endian).tobytes())
    return digest.hexdigest()
