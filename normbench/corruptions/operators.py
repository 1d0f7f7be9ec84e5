"""Operations that several corruptions share: quantisation, smoothing, zoom, motion blur, colour and grey.

Arrays are (images, height, width, channels). Values are float64 in 0..1 unless stated otherwise.
Quantisation truncates, so the order of the floating-point operations decides bytes. It is the order of the reference
and of the libraries that the reference calls, and must not be changed. If it is changed for speed, the values that are
so close to a whole level that rounding errors could change their byte are found and computed again in the order of the
reference (`settled`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Places = NDArray[np.intp]
Real = TypeVar("Real", np.float32, np.float64)
Number = TypeVar("Number", np.uint8, np.float32, np.float64)


UNIT = np.arange(256) / np.float64(255)
SINGLE_UNIT = UNIT.astype(np.float32)


def unit(images: Bytes) -> Floats:
    """Converts grey levels 0..255 to numbers 0..1."""
    return UNIT.take(images)


def single_unit(images: Bytes) -> Singles:
    """Converts grey levels 0..255 to numbers 0..1 in single precision."""
    return SINGLE_UNIT.take(images)


def quantise(values: NDArray[Real]) -> Bytes:
    """Converts numbers, clipped to 0..1, to grey levels by truncation."""
    levels = np.clip(values, 0, 1)
    levels *= 255
    return levels.astype(np.uint8)


SINGLE_ROUNDING = 2**-17  # the largest rounding error in single precision of a number below 256
WINDOWS = 1 << 17  # values of pixels and their neighbours in memory at a time, where they are computed again
DOUBLES = 1e-9  # far above the rounding errors of a sum of such numbers in double precision


def settled(levels: NDArray[Real], error: float, exact: Callable[[Places], Bytes]) -> Bytes:
    """Truncates `levels`, in 0..255; those that errors could carry across a whole number are computed again.

    levels: sums of products, none of which is negative, so that 0 is exact. error: at most that of a level. exact:
    returns the grey levels at flat indices.
    """
    result = levels.astype(np.uint8)
    distance = np.rint(levels)
    np.subtract(levels, distance, out=distance)
    np.abs(distance, out=distance)
    places = np.flatnonzero(distance < error)
    places = places[levels.reshape(-1)[places] > 0]
    if len(places):
        result.reshape(-1)[places] = exact(places)
    return result


@contextmanager
def steady_opencv() -> Iterator[None]:
    """A context in which OpenCV has one thread and does without Intel's IPP; it restores the former state.

    IPP rounds distances otherwise. Threads would wait for each other more than they work on images of this size, and
    the processes that write corrupted images are as many as the cores already.
    """
    import cv2

    threads, ipp = cv2.getNumThreads(), cv2.ipp.useIPP()
    cv2.setNumThreads(1)
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.ipp.setUseIPP(ipp)


def plain(images: NDArray[Any]) -> NDArray[Any]:
    """Images of one channel without its axis, because OpenCV has none for them."""
    return images[..., 0] if images.shape[3] == 1 else images


def as_planes(images: Bytes) -> Bytes:
    """RGB images (N, H, W, 3) as three planes (3, N, H, W)."""
    import cv2

    count, height, width, channels = images.shape
    planes = np.empty((channels, count, height, width), np.uint8)
    cv2.split(images.reshape(-1, width, channels), mv=list(planes.reshape(channels, -1, width)))
    return planes


def as_images(planes: Bytes) -> Bytes:
    """The inverse of `as_planes`."""
    import cv2

    width = planes.shape[-1]
    return np.asarray(cv2.merge(list(planes.reshape(3, -1, width))), np.uint8).reshape(*planes.shape[1:], 3)


def colour(images: Bytes) -> Bytes:
    """Grey images (N, H, W, 1) as RGB (N, H, W, 3)."""
    return np.repeat(images, 3, axis=3)


def luma(images: Bytes) -> Bytes:
    """RGB images (N, H, W, 3) as grey (N, H, W, 1): ITU-R 601 luma, rounded as Pillow's mode L. Grey RGB is kept."""
    levels = images.astype(np.uint32)
    weighted = 19595 * levels[..., :1] + 38470 * levels[..., 1:2] + 7471 * levels[..., 2:]
    return ((weighted + 32768) >> 16).astype(np.uint8)


def gaussian(
    values: NDArray[Real],
    sigma: float | tuple[float, float],
    border: Literal["edge", "symmetric"] = "edge",
    truncate: float = 4,
) -> NDArray[Real]:
    """Smooths axes 1 and 2, with taps up to `truncate` sigma, as `scipy.ndimage.gaussian_filter` does.

    Sums are in double precision, each axis' result in that of `values`.
    `border` is `numpy.pad`'s mode (scipy calls edge nearest, symmetric reflect). `sigma` in pixels, for both axes or
    for each; 0 changes nothing.
    """
    for axis, deviation in zip((1, 2), sigma if isinstance(sigma, tuple) else (sigma, sigma), strict=True):
        weights = gaussian_weights(deviation, truncate)
        radius = len(weights) // 2
        if radius == 0:
            continue
        margins = [(0, 0)] * values.ndim
        margins[axis] = (radius, radius)
        padded = np.pad(values, margins, mode=border).astype(np.float64, copy=False)
        size = values.shape[axis]
        taps = [padded[(slice(None),) * axis + (slice(i, i + size),)] for i in range(len(weights))]
        values = symmetric_sum(taps, weights).astype(values.dtype, copy=False)
    return values


def gaussian_weights(sigma: float, truncate: float = 4) -> Floats:
    """The weights of `gaussian` for one axis, (2 * radius + 1,)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    weights: Floats = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return weights / weights.sum()


def symmetric_sum(taps: Sequence[Floats] | Floats, weights: Floats) -> Floats:
    """The weighted sum of an odd number of taps, in scipy's order: the middle one, then pairs from the outside in."""
    radius = len(weights) // 2
    total: Floats = taps[radius] * weights[radius]
    for i in range(radius):
        total += (taps[i] + taps[-1 - i]) * weights[i]
    return total


Border = Literal["edge", "reflect", "symmetric"]


def windows_at(values: NDArray[Number], places: Places, reach: tuple[int, int], border: Border) -> NDArray[Number]:
    """Returns the values around some places of images (N, H, W, C): (2 * rows + 1, 2 * columns + 1, M).

    places: flat indices (M,). reach: so many rows above and below, and columns to the left and right. border:
    `numpy.pad`'s name of what is outside.
    """
    _, height, width, channels = values.shape
    line, step = _around(height, reach[0], border) * (width * channels), _around(width, reach[1], border) * channels
    image, row, column, channel = np.unravel_index(places, values.shape)
    starts = line[:, row] + (image * (height * width * channels) + channel)
    return values.reshape(-1).take(starts[:, None] + step[:, column])


@functools.lru_cache(maxsize=64)
def _around(size: int, reach: int, border: Border) -> Places:
    """Returns the numbers of the pixels around each of `size` pixels in a row, (2 * reach + 1, size)."""
    line = np.pad(np.arange(size), reach, mode=border)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(line, size))


def images_last(values: NDArray[Number]) -> NDArray[Number]:
    """(N, H, W, C) as (H, W, N * C), where taking rows and columns copies long runs of memory."""
    return np.ascontiguousarray(values.transpose(1, 2, 0, 3)).reshape(*values.shape[1:3], -1)


def images_first(values: NDArray[Number], channels: int) -> NDArray[Number]:
    """The inverse of `images_last`."""
    return values.reshape(*values.shape[:2], -1, channels).transpose(2, 0, 1, 3)


class ZoomedAxis:
    """One axis of `size` pixels of a `Zoom`: `low` and `high` are the pixels around each pixel, with their weights."""

    def __init__(self, size: int, factor: float):
        crop = math.ceil(size / factor)
        start = (size - crop) // 2
        enlarged = round(crop * factor)
        position = (np.arange(size) + (enlarged - size) // 2) * ((crop - 1) / (enlarged - 1))
        low = position.astype(np.intp)
        self.low: NDArray[np.intp] = low + start
        self.high: NDArray[np.intp] = np.minimum(low + 1, crop - 1) + start
        self.high_weight: Floats = (position - low).astype(np.float64)
        self.low_weight: Floats = 1 - self.high_weight

    @property
    def taps(self) -> tuple[tuple[NDArray[np.intp], Floats], tuple[NDArray[np.intp], Floats]]:
        """The two neighbours of each pixel, each as their indices and weights."""
        return (self.low, self.low_weight), (self.high, self.high_weight)

    def matrix(self) -> Floats:
        """Returns the matrix (size, size) that enlarges a column of pixels."""
        result = np.zeros((len(self.low), len(self.low)))
        for source, weight in self.taps:
            np.add.at(result, (np.arange(len(source)), source), weight)
        return result


class Zoom:
    """Enlarges the middle of an image `factor` times (>= 1), bilinearly; height and width stay the same.

    Corners are aligned; each enlarged side is rounded to whole pixels. In the reference, the last row and column are
    black if scipy rounds the position of the last pixel up; this is not reproduced, and does not happen at sides of 16,
    28, 32, 64, 96 or 224.
    """

    def __init__(self, height: int, width: int, factor: float):
        self.rows, self.columns = ZoomedAxis(height, factor), ZoomedAxis(width, factor)

    def __call__(self, values: NDArray[Real]) -> Floats:
        """Returns `values` (H, W, M), M images or channels, enlarged."""
        result = np.zeros(values.shape)
        for rows, row_weight in self.rows.taps:
            strip = values[rows] * row_weight[:, None, None]
            for columns, weight in self.columns.taps:
                result += strip[:, columns] * weight[:, None]
        return result

    @staticmethod
    def all_at(zooms: Sequence[Zoom], values: NDArray[Real], rows: Places, columns: Places, images: Places) -> Floats:
        """Returns the `values` (H, W, M) of M images or channels at P places, enlarged by each of Z zooms: (Z, P)."""
        _, width, count = values.shape
        result = np.zeros((len(zooms), len(rows)))
        for i in (0, 1):
            row, row_weight = (np.stack(each)[:, rows] for each in zip(*(z.rows.taps[i] for z in zooms), strict=True))
            for j in (0, 1):
                taps = zip(*(z.columns.taps[j] for z in zooms), strict=True)
                column, weight = (np.stack(each)[:, columns] for each in taps)
                tap = values.reshape(-1).take((row * width + column) * count + images) * row_weight
                tap *= weight
                result += tap
        return result

    def layers(self, values: Floats) -> Floats:
        """Returns `values` (N, H, W) enlarged, but for rounding errors: rows first, then columns."""
        strips = [values.take(source, axis=1) * weight[:, None] for source, weight in self.rows.taps]
        strip = strips[0] + strips[1]
        parts = [strip.take(source, axis=2) * weight for source, weight in self.columns.taps]
        return parts[0] + parts[1]

    def at(self, values: NDArray[Real], rows: NDArray, columns: NDArray, images: NDArray) -> Floats:
        """Returns the enlarged `values` (H, W, M), M images or channels, at some positions."""
        result = np.zeros(len(rows))
        for row, row_weight in self.rows.taps:
            for column, weight in self.columns.taps:
                result += values[row[rows], column[columns], images] * row_weight[rows] * weight[columns]
        return result


# Taps of a motion blur that are filtered together. Their box has fewer than 130 pixels, so OpenCV filters directly.
SEGMENT = 14


@functools.lru_cache(maxsize=64)
def _motion_weights(radius: float, sigma: float) -> Floats:
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma * sigma))
    return weights / weights.sum()


def motion(images: Bytes, radius: float, sigma: float, angles: Floats) -> Bytes:
    """Returns the motion blur of images (N, H, W, C), like ImageMagick's MotionBlur: one-sided, towards `angles`.

    angles: (N,), in degrees. radius, sigma: in pixels. Sums are in single precision, and in double precision if that
    decides the byte.
    """
    import cv2

    weights = _motion_weights(radius, sigma)
    taps = len(weights)
    distance = np.arange(taps)
    along, across = taps * np.cos(np.radians(angles)), taps * np.sin(np.radians(angles))
    length = np.hypot(across, along)
    columns = np.ceil(distance[:, None] * along / length - 0.5).astype(np.intp)  # (taps, N)
    rows = np.ceil(distance[:, None] * across / length - 0.5).astype(np.intp)

    height, width = images.shape[1:3]
    values, result = plain(images.astype(np.float32)), np.empty(images.shape, np.float32)
    # ImageMagick rounds to 16 bits and the reference then keeps the upper 8: an offset of half a 16-bit step.
    result[:] = 1 / 514
    number = np.arange(len(images))
    used = int(np.flatnonzero(weights * 255 >= 1e-9)[-1]) + 1  # the others cannot be seen in single precision
    for segment in np.array_split(distance[:used], -(-used // SEGMENT)):
        first = segment[0]
        down, aside = rows[segment] - rows[first], columns[segment] - columns[first]
        # A line goes to one side, so the first pixel of a segment is in a corner of its kernel.
        top, left = down.min(axis=0), aside.min(axis=0)
        kernels = np.zeros((len(images), SEGMENT, SEGMENT), np.float32)
        for row, column, weight in zip(down - top, aside - left, weights[segment], strict=True):
            kernels[number, row, column] += weight
        ends = np.stack([-left, -top, np.ptp(down, axis=0) + 1, np.ptp(aside, axis=0) + 1, rows[first], columns[first]])
        for image, kernel, target, (x, y, tall, wide, row, column) in zip(
            values, kernels, plain(result), ends.T.tolist(), strict=True
        ):
            moved = _moved(image, row, column) if first else image
            target += cv2.filter2D(moved, -1, kernel[:tall, :wide], anchor=(x, y), borderType=cv2.BORDER_REPLICATE)

    flat = images.reshape(-1)

    def exact(places: Places) -> Bytes:
        levels = np.empty(len(places), np.uint8)
        step = max(1, WINDOWS // taps)
        for start in range(0, len(places), step):
            image, y, x, channel = np.unravel_index(places[start : start + step], images.shape)
            row = np.clip(y + rows[:, image], 0, height - 1) + image * height
            column = np.clip(x + columns[:, image], 0, width - 1)
            products = flat.take((row * width + column) * images.shape[3] + channel) * weights[:, None]
            total = np.add.accumulate(products, axis=0)[-1]
            levels[start : start + step] = np.floor(total + 1 / 514)
        return levels

    return settled(result, SINGLE_ROUNDING * 2 * (taps + 4), exact)


def _moved(image: Singles, down: int, aside: int) -> Singles:
    """Returns the pixel so far below and to the right of each one; the outer pixels are repeated outside of the image.

    image: (H, W) or (H, W, 3).
    """
    import cv2

    height, width = image.shape[:2]
    down = min(max(down, 1 - height), height - 1)
    aside = min(max(aside, 1 - width), width - 1)
    top, below, left, right = max(-down, 0), max(down, 0), max(-aside, 0), max(aside, 0)
    part = image[below : height - top, right : width - left]
    return np.asarray(cv2.copyMakeBorder(part, top, below, left, right, cv2.BORDER_REPLICATE), np.float32)
