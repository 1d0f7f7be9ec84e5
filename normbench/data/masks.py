"""Pairs of an image file and a mask, the class of each of its pixels, read and written as the arrays of a dataset.

A mask is an image file whose values are numbers: grey of 8 or 16 bits, or a palette, whose indices count. Image and
mask have the same size and are cut and resized in the same way, the image with Pillow's bilinear filter, the mask by
taking the nearest pixel, so that no class appears between two others.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from normbench.data import pictures
from normbench.data.arrays import MASKED, at_a_time
from normbench.data.pixels import IGNORED, nearest
from normbench.data.sources.base import Request
from normbench.system import npy
from normbench.system.arrays import by
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.size import Size, sides, size_of
from normbench.system.text import clean

MOST_CLASSES = IGNORED  # their labels are 0 to 254
NO_CLASS = -1  # of a table of classes: no value of a mask
GREY = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of images with one number a pixel


class Pair(NamedTuple):
    """The files of an image and of its mask."""

    image: Path
    mask: Path


class Sample(NamedTuple):
    """A pair as it was read. pixels: uint8 (H, W, 3). labels: uint8 (H, W). remarks: on the image, phrases."""

    pixels: np.ndarray
    labels: np.ndarray
    remarks: tuple[str, ...]


def table(classes: Mapping[int, int], ignored: Sequence[int]) -> np.ndarray:
    """The label of each value that a mask may have, int16 (65536,): a class, `IGNORED` or `NO_CLASS`.

    classes: the label of each value. ignored: values that count nowhere; they come before the classes.
    """
    found = np.full(1 << 16, NO_CLASS, np.int16)
    for value, label in classes.items():
        found[value] = label
    found[list(ignored)] = IGNORED
    return found


def write(out: Path, split: str, pairs: Sequence[Pair], labels: np.ndarray, request: Request, size: Size) -> list[str]:
    """Writes `<split>_images.npy`, uint8 (N, H, W, 3), and `<split>_masks.npy`, uint8 (N, H, W); returns notes.

    They are written one by one, so a dataset may be larger than the memory. labels: see `table`. size: of the result in
    pixels. Raises UserError, with the file, for the first pair that cannot be read.
    """
    count, (height, width) = len(pairs), sides(size)
    paths = {what: out / f"{split}_{what}.npy" for what in ("images", "masks")}
    starts = {
        "images": npy.create(paths["images"], np.uint8, (count, height, width, 3)),
        "masks": npy.create(paths["masks"], np.uint8, (count, height, width)),
    }
    remarks: dict[str, list[str]] = {}
    given = partial(read, labels=labels, size=size, exact=request.image_size is None, request=request)
    batch = max(1, min(64, (1 << 28) // (height * width * 4)))
    with (
        paths["images"].open("rb+") as images,
        paths["masks"].open("rb+") as masks,
        Progress(f"read {request.dataset} {split}", total=count) as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, on metadata and sizes that are dealt with here
        images.seek(starts["images"])
        masks.seek(starts["masks"])
        for start in range(0, count, batch):
            some = pairs[start : start + batch]
            for index, (pair, sample) in enumerate(zip(some, pool.map(given, some), strict=True), start=start):
                images.write(sample.pixels.tobytes())
                masks.write(sample.labels.tobytes())
                for remark in sample.remarks:
                    remarks.setdefault(remark, []).append(clean(pair.image.name))
                progress.update(index + 1, f"{index + 1} of {count}")
    return pictures.phrases(remarks)


def read(pair: Pair, labels: np.ndarray, size: Size, exact: bool, request: Request) -> Sample:
    """Reads an image and its mask, resized until they just cover `size`, and cut to their middle.

    exact: whether they must have that size already. labels: see `table`. Raises UserError with the file.
    """
    own = size_in(pair.image, request)
    if exact and own != sides(size):
        found = f"{by(own)} pixels, others have {by(sides(size))}: give the dataset an image_size"
        raise request.error(f"{clean(pair.image)}: {found}")
    values = values_in(pair.mask, request)
    if values.shape != own:
        raise request.error(f"{clean(pair.mask)}: {by(values.shape)} pixels, its image {pair.image.name} {by(own)}")
    found = labels[values]
    if (found == NO_CLASS).any():
        row, column = np.argwhere(found == NO_CLASS)[0]
        known = np.flatnonzero(labels != NO_CLASS)
        text = f"has the value {values[row, column]} at row {row}, column {column}, which is no class"
        raise request.error(f"{clean(pair.mask)}: {text}; known are {ranges(known)}")
    picture = pictures.read(pair.image, size)
    return Sample(picture.pixels, fitted(found.astype(np.uint8), size), picture.remarks)


def size_in(path: Path, request: Request) -> tuple[int, int]:
    """Height and width of an image file. Raises UserError if it cannot be read, or is to be turned before it is seen.

    Nothing tells whether the mask of an image that its metadata turn is turned already.
    """
    with opened(path, request) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        found = file.height, file.width
    if turned:
        raise request.error(f"{clean(path)}: is turned by its metadata (EXIF), a mask is not: save it upright")
    return found


def values_in(path: Path, request: Request) -> np.ndarray:
    """The values of a mask, uint16 (H, W). Raises UserError if it cannot be read or has several numbers a pixel."""
    with opened(path, request) as file:
        if file.mode not in GREY:
            text = f"has the mode {file.mode}, but a mask has one number a pixel, that of its class (grey or a palette)"
            raise request.error(f"{clean(path)}: {text}")
        try:
            values = np.asarray(file).astype(np.int64)
        except Exception as error:  # decoders raise errors of every kind for damaged files
            raise request.error(f"{clean(path)}: not a readable image: {clean(str(error))}") from None
    if values.min() < 0 or values.max() >= 1 << 16:
        raise request.error(f"{clean(path)}: has values from {values.min()} to {values.max()}, not 0 to 65535")
    return values.astype(np.uint16)


def opened(path: Path, request: Request) -> Image.Image:
    """An image file whose header has been read. Raises UserError if that cannot be done."""
    try:
        if not os.path.isfile(path):
            raise request.error(f"{clean(path)}: no such file")
        return Image.open(path)
    except UserError:
        raise
    except Exception as error:  # parsers raise errors of every kind for damaged files
        raise request.error(f"{clean(path)}: not a readable image: {clean(str(error))}") from None


def fitted(labels: np.ndarray, size: Size) -> np.ndarray:
    """A mask as `normbench.data.pictures` fits its image: resized until it covers the size, and cut to the middle.

    labels: (H, W). Each pixel of the result has the label of the nearest one.
    """
    height, width = sides(size)
    own_height, own_width = labels.shape
    scale = max(width / own_width, height / own_height)
    wide, high = max(width, round(own_width * scale)), max(height, round(own_height * scale))
    rows = nearest(own_height, high, np.arange(height) + (high - height) // 2)
    columns = nearest(own_width, wide, np.arange(width) + (wide - width) // 2)
    return labels[rows[:, None], columns]


def common_size(pairs: Sequence[Pair], request: Request) -> Size:
    """The size to which pairs are brought: that of the request, or else that of the first image."""
    return request.image_size if request.image_size is not None else size_of(*size_in(pairs[0].image, request))


def ranges(values: np.ndarray) -> str:
    """Ascending numbers in few words, such as `0..10, 255`."""
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{part[0]}..{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def check(stored: Mapping[str, np.ndarray], names: Sequence[str], request: Request) -> None:
    """Raises UserError unless arrays are those of a dataset of segmentation.

    stored: by the names in `normbench.data.arrays.MASKED`. names: of the classes.
    """
    if not 2 <= len(names) <= MOST_CLASSES:
        raise request.error(f"has {len(names)} classes; segmentation needs 2 to {MOST_CLASSES}, each with a name")
    for key in MASKED:
        array, dimensions = stored[key], 4 if key.endswith("images") else 3
        if array.dtype != np.uint8 or array.ndim != dimensions or not len(array):
            wanted = "(N, H, W, C)" if dimensions == 4 else "(N, H, W)"
            wrote = f"{array.dtype} {by(array.shape)}"
            raise request.error(f"the source wrote {key} as {wrote}, but uint8 {wanted} is needed")
    for split in ("train", "test"):
        images, found = stored[f"{split}_images"], stored[f"{split}_masks"]
        if images.shape[:3] != found.shape or images.shape[1:] != stored["train_images"].shape[1:]:
            raise request.error(f"the source wrote {split}_images {by(images.shape)} and masks {by(found.shape)}")
        rows = at_a_time(found)
        for start in range(0, len(found), rows):
            some = found[start : start + rows]
            bad = some[(some >= len(names)) & (some != IGNORED)]
            if len(bad):
                raise request.error(f"{split}_masks have the class {bad[0]}, the last of the list is {len(names) - 1}")
