"""Arrays that users bring: files that hold them, and the one reading that their types and shapes allow.

What can be read in one way only is accepted: labels as a column, as whole floats, as booleans or one-hot, images
without an axis for their only channel or with the channels first, integers of any type and byte order. Everything else
is refused in one line that says what is there and what would do.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from normbench.system.errors import UserError

SMALLEST_SIDE = 4  # pixels
LARGEST_LABEL = 1 << 31
LISTED = 12  # arrays of a file that a message names
BATCH = 1024  # images whose values are looked at together

# What a file is that begins with these bytes, for files that should hold arrays.
BEGINNINGS = (
    (b"\x93NUMPY", "a single array (.npy)"),
    (b"PK", "a damaged or truncated zip file"),
    (b"\x80", "a pickle; it is never read, because it can run code, while np.savez writes plain arrays"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z file; unpack it first"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB", "a MATLAB file"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; `git lfs pull` fetches it"),
)
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # an encrypted zip file, or an unknown compression
    MemoryError,
)


def read_npz(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Returns some arrays of an .npz file, and those of the optional ones that it has. Unpickles nothing.

    Raises UserError, with a line that begins with the path, if the file is no .npz or has not all of the arrays.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not an .npz file")
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except BROKEN as error:
        raise UserError(f"{path}: {_instead(path, '.npz file', error)}") from None
    if isinstance(stored, np.ndarray):
        raise UserError(f"{path}: a single array (.npy), not an .npz file with {', '.join(names)}")
    with stored:
        missing = [name for name in names if name not in stored.files]
        if missing:
            listed = ", ".join(stored.files[:LISTED]) + (", ..." if len(stored.files) > LISTED else "")
            raise UserError(f"{path}: no array '{missing[0]}' among {listed or 'none'}")
        found = {}
        for name in [*names, *(name for name in optional if name in stored.files)]:
            try:
                found[name] = stored[name]
            except BROKEN as error:
                raise UserError(f"{path}: {name} {_fault(error)}") from None
            if not isinstance(found[name], np.ndarray):
                raise UserError(f"{path}: {name} is no array (.npy) inside of the file")
        return found


def map_npy(path: Path) -> np.ndarray:
    """Returns the array of an .npy file, mapped into memory. Unpickles nothing.

    Raises UserError, with a line that begins with the path, if the file does not hold a whole array.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not an .npy file")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except BROKEN as error:
        if _beginning(path).startswith(b"\x93NUMPY"):
            raise UserError(f"{path}: {_fault(error)}") from None
        raise UserError(f"{path}: {_instead(path, '.npy file', error)}") from None


def _fault(error: BaseException) -> str:
    """What is wrong with an array in a file, as the end of `<array> ...`."""
    text = str(error)
    if "Object arrays" in text or "Python objects" in text:
        return "is an array of Python objects, which is never read, because it can run code; save it as numbers"
    if isinstance(error, MemoryError):
        return "is larger than the memory"
    return f"is damaged or truncated: {_reason(error)}"


def _instead(path: Path, wanted: str, error: BaseException) -> str:
    """What a file is that should have been another."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    head = _beginning(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"empty, not an {wanted}"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return f"a web page, not an {wanted}: the address that it was fetched from gave a page in place of the file"
    if zipfile.is_zipfile(path):
        return f"an .npz file, not an {wanted}"
    for beginning, kind in BEGINNINGS:
        if head.startswith(beginning):
            return f"{kind}, not an {wanted}" if ";" not in kind else kind.replace(";", f", not an {wanted};", 1)
    return f"not an {wanted}"


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _reason(error: BaseException) -> str:
    """An error's text in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:160]


def as_images(images: np.ndarray, what: str) -> np.ndarray:
    """Images as uint8 (N, H, W, C), C = 1 or 3.

    Integers of any type are taken as levels from 0 to 255. Images without a channel axis are grey. Channels on the
    second axis are moved to the last one, if only one of both can hold them. what: names the array, at the beginning of
    errors. Raises UserError for anything else; floats too, because they do not say which value is white.
    """
    if images.dtype != np.uint8:
        images = _levels(images, what)
    given = images.shape
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and given[3] not in (1, 3) and given[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and not len(images):
        raise UserError(f"{what} are {by(given)}: there is no image in it")
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(f"{what} are {by(given)}; N x H x W x C is needed, C 1 or 3{_shape_advice(given)}")
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        raise UserError(f"{what} are {by(given)}: sides of at least {SMALLEST_SIDE} pixels are needed")
    return images


def _levels(images: np.ndarray, what: str) -> np.ndarray:
    """Integers from 0 to 255 as uint8."""
    kind, needed = images.dtype.kind, "uint8 (0..255) is needed"
    if kind == "b":
        raise UserError(f"{what} are bool, {needed}: 255 * images.astype('uint8') makes True white")
    if kind not in "iuf":
        raise UserError(f"{what} are {images.dtype}, {needed}")
    if not images.size:
        return images.astype(np.uint8)
    blocks = [images[start : start + BATCH] for start in range(0, len(images), BATCH)] if images.ndim else [images]
    low, high = min(block.min() for block in blocks), max(block.max() for block in blocks)
    if kind == "f":
        raise UserError(f"{what} are {images.dtype}, {needed}{_float_advice(float(low), float(high))}")
    if low < 0 or high > 255:
        advice = "; 16-bit levels become that by images // 257" if images.dtype.itemsize == 2 and low >= 0 else ""
        raise UserError(f"{what} are {images.dtype} with {low if low < 0 else high}, {needed}{advice}")
    return images.astype(np.uint8)


def _float_advice(low: float, high: float) -> str:
    if not math.isfinite(low + high):
        return f"; they have {low if not math.isfinite(low) else high}"
    if low >= 0 and high <= 1:
        return ": for values in 0..1, (255 * images).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return f": for values in 0..255, images.round().astype('uint8'); they go up to {high:g}"
    return f"; values from {low:g} to {high:g} are no levels: bring the images as they were before the normalization"


def _shape_advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[3] == 4:
        return "; the fourth channel is transparency: images[..., :3] leaves it out"
    if len(shape) == 4 and shape[1] == 4:
        return "; the fourth channel is transparency: images[:, :3] leaves it out"
    if len(shape) == 4 and shape[2] in (1, 3):
        return "; the number of images comes first: images.transpose(3, 0, 1, 2)"
    if len(shape) == 2 and math.isqrt(shape[1]) ** 2 == shape[1] > 0:
        side = math.isqrt(shape[1])
        return f"; rows of pixels become images by images.reshape(-1, {side}, {side})"
    return ""


def as_labels(labels: np.ndarray, count: int, what: str, images: str) -> np.ndarray:
    """The labels of `count` images as int64 (count,), at least 0.

    Accepted are integers, booleans and whole floats, as (count,), with further axes of length 1, or as one-hot rows
    (count, classes). what, images: name the labels and the images. Raises UserError for anything else.
    """
    if labels.dtype.kind not in "iufb":
        names = labels.dtype.kind in "UST"
        advice = "; np.unique(labels, return_inverse=True)[1] numbers classes by name" if names else ""
        raise UserError(f"{what} are {labels.dtype}, integers are needed{advice}")
    if labels.dtype.kind == "f":
        broken = labels[~(np.isfinite(labels) & (labels == np.floor(labels)))]
        if broken.size:
            raise UserError(f"{what} have {broken.flat[0]}; whole numbers are needed")
    if labels.ndim and labels.size == count == max(labels.shape):
        labels = labels.reshape(-1)
    elif labels.ndim == 2 and len(labels) == count and labels.size:
        labels = _of_one_hot(labels, what)
    else:
        raise UserError(f"{what} are {by(labels.shape)} for {count} {images}")
    if labels.size and labels.min() < 0:
        raise UserError(f"{what} have {labels.min()}; labels count from 0")
    if labels.size and labels.max() >= LARGEST_LABEL:
        raise UserError(f"{what} have {labels.max()}, which is no number of a class; labels count from 0")
    return labels.astype(np.int64)


def _of_one_hot(rows: np.ndarray, what: str) -> np.ndarray:
    """The position (N,) of the only 1 in each row (N, classes)."""
    wrong = np.flatnonzero((((rows != 0) & (rows != 1)).any(axis=1)) | ((rows == 1).sum(axis=1) != 1))
    if len(wrong):
        raise UserError(
            f"{what} are {by(rows.shape)}: one label for each image is needed, or one-hot rows;"
            f" row {wrong[0]} has not a single 1 and else 0"
        )
    return rows.argmax(axis=1)


def by(shape: tuple[int, ...]) -> str:
    """A shape in words, such as `30 x 12 x 12`."""
    return " x ".join(map(str, shape)) or "a single number"
