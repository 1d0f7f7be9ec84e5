"""Operations that several corruptions share: quantisation, smoothing, zoom, motion blur, colour and grey.

Arrays are (images, height, width, channels). Values are float64 in 0..1 unless stated otherwise.
Quantisation truncates, so the order of the floating-point operations decides bytes. It is the order of the reference
and of the libraries that the reference calls, and must not be changed. If it is changed for speed, the values that are
so close to a whole level that rounding errors could change their byte are found (`near_a_level`) and computed again, in
the order of the reference.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
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


def near_a_level(levels: NDArray[Real], roundings: float) -> NDArray[np.intp]:
    """Returns flat indices of the `levels`, in 0..255, that rounding errors could carry across a whole number.

    roundings: how many rounding errors of single precision may add up, each of a number up to 256.
    """
    distance = levels - np.rint(levels)
    return np.flatnonzero(np.abs(distance, out=distance) < roundings * 256 * 2**-24)


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
        radius = int(truncate * deviation + 0.5)
        if radius == 0:
            continue
        weights = np.exp(-0.5 / (deviation * deviation) * np.arange(-radius, radius + 1) ** 2)
        weights /= weights.sum()
        margins = [(0, 0)] * values.ndim
        margins[axis] = (radius, radius)
        padded = np.pad(values, margins, mode=border).astype(np.float64, copy=False)
        size = values.shape[axis]
        taps = [padded[(slice(None),) * axis + (slice(i, i + size),)] for i in range(2 * radius + 1)]
        total = taps[radius] * weights[radius]
        for i in range(radius):
            total += (taps[i] + taps[-1 - i]) * weights[i]
        values = total.astype(values.dtype, copy=False)
    return values


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

    def at(self, values: NDArray[Real], rows: NDArray, columns: NDArray, images: NDArray) -> Floats:
        """Returns the enlarged `values` (H, W, M), M images or channels, at some positions."""
        result = np.zeros(len(rows))
        for row, row_weight in self.rows.taps:
            for column, weight in self.columns.taps:
                result += values[row[rows], column[columns], images] * row_weight[rows] * weight[columns]
        return result


@functools.lru_cache(maxsize=64)
def _motion_weights(radius: float, sigma: float) -> Floats:
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma * sigma))
    return weights / weights.sum()


def motion(images: Bytes, radius: float, sigma: float, angles: Floats) -> Bytes:
    """Returns the motion blur of images (N, H, W, C), like ImageMagick's MotionBlur: one-sided, towards `angles`.

    angles: (N,), in degrees. radius, sigma: in pixels. Sums are in single precision, and in double precision if that
    decides the byte.
    """
    weights = _motion_weights(radius, sigma)
    taps = len(weights)
    distance = np.arange(taps)
    along, across = taps * np.cos(np.radians(angles)), taps * np.sin(np.radians(angles))
    length = np.hypot(across, along)
    columns = np.ceil(distance[:, None] * along / length - 0.5).astype(np.intp)  # (taps, N)
    rows = np.ceil(distance[:, None] * across / length - 0.5).astype(np.intp)

    count, height, width, channels = images.shape
    edge = np.pad(images, [(0, 0), (taps, taps), (taps, taps), (0, 0)], mode="edge")
    padded = edge.astype(np.float32).reshape(*edge.shape[:2], -1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width * channels), axis=(1, 2))
    result = np.zeros((count, height, width * channels), np.float32)
    # ImageMagick rounds to 16 bits and the reference then keeps the upper 8: an offset of half a 16-bit step.
    result += np.float32(1 / 514)
    number = np.arange(count)
    used = int(np.flatnonzero(weights * 255 >= 1e-9)[-1]) + 1  # the others cannot be seen in single precision
    for row, column, weight in zip(rows[:used], columns[:used], weights.astype(np.float32)[:used], strict=True):
        moved = windows[number, taps + row, (taps + column) * channels]
        moved *= weight
        result += moved
    levels = result.astype(np.uint8).reshape(images.shape)
    open_ = near_a_level(result, taps + 4)
    if len(open_):
        image, y, x, channel = np.unravel_index(open_, images.shape)
        total = np.zeros(len(open_))
        for row, column, exact in zip(rows, columns, weights.tolist(), strict=True):
            total += edge[image, taps + y + row[image], taps + x + column[image], channel] * exact
        levels.reshape(-1)[open_] = np.floor(total + 1 / 514).astype(np.uint8)
    return levels
