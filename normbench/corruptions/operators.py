"""What several corruptions share: quantisation, smoothing, zoom, motion blur, colour and grey.

Arrays are (images, height, width, channels), height = width. Values are in 0..1 and float64 where nothing else is said.
Quantisation truncates, so the order of the floating-point operations decides bytes: it is that of the reference
(see constants.py and the libraries that it calls) and must not be rearranged.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)


def unit(images: Bytes) -> Floats:
    """Grey levels 0..255 as numbers 0..1."""
    return images / np.float64(255)


def quantise(values: NDArray[Real]) -> Bytes:
    """Numbers as grey levels, clipped to 0..1, truncated."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def colour(images: Bytes) -> Bytes:
    """Grey images (N, H, W, 1) as RGB (N, H, W, 3)."""
    return np.repeat(images, 3, axis=3)


def luma(images: Bytes) -> Bytes:
    """RGB images (N, H, W, 3) as grey (N, H, W, 1): ITU-R 601 luma, rounded as Pillow's mode L. Grey RGB is kept."""
    levels = images.astype(np.uint32)
    weighted = 19595 * levels[..., :1] + 38470 * levels[..., 1:2] + 7471 * levels[..., 2:]
    return ((weighted + 32768) >> 16).astype(np.uint8)


def gaussian(
    values: NDArray[Real], sigma: float, border: Literal["edge", "symmetric"] = "edge", truncate: float = 4
) -> NDArray[Real]:
    """Smooths axes 1 and 2, with taps up to `truncate` sigma, as `scipy.ndimage.gaussian_filter` does.

    Sums are in double precision, each axis' result in that of `values`.
    `border` is `numpy.pad`'s mode (scipy calls edge nearest, symmetric reflect). `sigma` in pixels; 0 changes nothing.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return values
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
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


def images_last(values: NDArray[Real]) -> NDArray[Real]:
    """(N, H, W, C) as (H, W, N * C), where taking rows and columns copies long runs of memory."""
    return np.ascontiguousarray(values.transpose(1, 2, 0, 3)).reshape(*values.shape[1:3], -1)


def images_first(values: NDArray[Real], channels: int) -> NDArray[Real]:
    """The inverse of `images_last`."""
    return values.reshape(*values.shape[:2], -1, channels).transpose(2, 0, 1, 3)


def zoom(values: NDArray[Real], factor: float) -> Floats:
    """Enlarges the middle of (H, H, M), M images or channels, `factor` times (>= 1); the size stays.

    Bilinear with corners aligned; the enlarged size is rounded to whole pixels. The reference's last row and column are
    black where scipy's position of the last pixel rounds up; not here, and not at sides of 16, 28, 32, 64, 96 or 224.
    """
    size = len(values)
    crop = math.ceil(size / factor)
    start = (size - crop) // 2
    values = values[start : start + crop, start : start + crop]
    enlarged = round(crop * factor)
    position = (np.arange(size) + (enlarged - size) // 2) * ((crop - 1) / (enlarged - 1))
    low = position.astype(np.intp)
    high = np.minimum(low + 1, crop - 1)
    high_weight = position - low
    low_weight = 1 - high_weight
    result = np.zeros((size, size, values.shape[2]))
    for rows, weight in ((low, low_weight), (high, high_weight)):
        strip = values[rows] * weight[:, None, None]
        result += strip[:, low] * low_weight[:, None]
        result += strip[:, high] * high_weight[:, None]
    return result


def motion(images: Bytes, radius: float, sigma: float, angles: Floats) -> Bytes:
    """Motion blur of (N, H, W, C) as ImageMagick's MotionBlur: one-sided, towards `angles` (N,) in degrees."""
    taps = 2 * math.ceil(radius) + 1
    distance = np.arange(taps)
    weights = np.exp(-(distance**2) / (2 * sigma * sigma))
    weights /= weights.sum()
    along, across = taps * np.cos(np.radians(angles)), taps * np.sin(np.radians(angles))
    length = np.hypot(across, along)
    columns = np.ceil(distance[:, None] * along / length - 0.5).astype(np.intp)  # (taps, N)
    rows = np.ceil(distance[:, None] * across / length - 0.5).astype(np.intp)

    count, height, width, channels = images.shape
    margins = [(0, 0), (0, 0), (taps, taps), (taps, taps)]
    padded = np.pad(images.transpose(0, 3, 1, 2), margins, mode="edge").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    result = np.zeros((count, channels, height, width))
    for row, column, weight in zip(rows, columns, weights, strict=True):
        result += windows[np.arange(count), taps + row, taps + column] * weight
    # ImageMagick rounds to 16 bits and the reference then keeps the upper 8: an offset of half a 16-bit step.
    return np.floor(result + 1 / 514).astype(np.uint8).transpose(0, 2, 3, 1)
