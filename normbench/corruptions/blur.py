"""Blur: gaussian, defocus, glass, motion, zoom.

Each function takes images uint8 (N, H, H, C), the constants of one severity (see constants.py) and its draws, if any
(see draws.py), and gives images of the same shape.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import (
    Bytes,
    Floats,
    Singles,
    Zoom,
    gaussian,
    images_first,
    images_last,
    motion,
    near_a_level,
    quantise,
    single_unit,
    unit,
)


def gaussian_blur(images: Bytes, sigma: float) -> Bytes:
    return quantise(gaussian(unit(images), sigma))


def defocus_blur(images: Bytes, constants: tuple[float, float]) -> Bytes:
    """Correlation with a disk of a `radius`, itself smoothed."""
    kernel = _disk(*constants)
    reach = len(kernel) // 2
    padded = np.pad(unit(images), [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="reflect")
    height, width = images.shape[1:3]
    result = np.zeros(images.shape)
    for row, column in np.argwhere(kernel):
        result += padded[:, row : row + height, column : column + width] * np.float64(kernel[row, column])
    return quantise(result)


def _disk(radius: float, sigma: float) -> Singles:
    """A disk of sum 1 after a gaussian of `sigma`, in single precision as in the reference.

    As there, the grid that it is smoothed on ends 8 pixels from the centre, or at a larger radius, and is mirrored.
    """
    reach, taps = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    grid = np.arange(-reach, reach + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    weights = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * sigma * sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(disk, [(taps, taps) if i == axis else (0, 0) for i in (0, 1)], mode="reflect")
        disk = np.zeros_like(disk)
        for i, weight in enumerate(weights):
            disk += np.take(padded, np.arange(len(grid)) + i, axis) * weight
    used = disk.any(axis=0)
    return disk[used][:, used]


def glass_blur(images: Bytes, constants: tuple[float, int, int], offsets: NDArray[np.int64]) -> Bytes:
    """Each pixel takes the place of a neighbour, between two gaussian blurs.

    `offsets`: (N, passes, H - 2 d, H - 2 d, 2), in -d..d-1, last axis (x, y), in the order of the reference's scan,
    which goes from the last row and column backwards. The reference means to swap two pixels but, as its two views
    share memory, copies one; so does this.
    """
    sigma, distance, passes = constants
    count, size, _, channels = images.shape
    blurred = gaussian(unit(images), sigma)
    blurred *= 255
    pixels = np.zeros((count, size, size, 4 if channels == 3 else 1), np.uint8)
    pixels[..., :channels] = blurred
    # A pixel as one number: three bytes and an empty one.
    items = pixels.view(np.uint32 if channels == 3 else np.uint8).reshape(-1)
    moved = slice(distance + 1, size - distance + 1)
    place = np.arange(size * size).reshape(size, size)
    first = (np.arange(count) * (size * size))[:, None, None]
    for i in range(passes):
        steps = offsets[:, i, ::-1, ::-1]
        source = np.repeat(place[None], count, axis=0)
        source[:, moved, moved] += steps[..., 1] * size + steps[..., 0]
        if distance > 1:
            source = _followed(source.reshape(count, -1), place.reshape(-1)).reshape(source.shape)
        source += first
        items = items.take(source.reshape(-1))
    pixels = items.view(np.uint8).reshape(count, size, size, -1)[..., :channels]
    return quantise(gaussian(unit(pixels), sigma))


def _followed(source: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each value comes from after one pass, (N, H * H), from the place that each pixel looks at.

    A place further on was scanned before, so that what is found there is already that from its own source: such chains
    are followed, twice as far each time. With distance 1 there is none.
    """
    chained = source > place
    while chained.any():
        source, chained = (
            np.where(chained, np.take_along_axis(source, source, axis=1), source),
            chained & np.take_along_axis(chained, source, axis=1),
        )
    return source


def motion_blur(images: Bytes, constants: tuple[float, float], angles: Floats) -> Bytes:
    """`angles`: (N,), degrees."""
    radius, sigma = constants
    return motion(images, radius, sigma, angles)


def zoom_blur(images: Bytes, constants: tuple[float, float]) -> Bytes:
    """Mean of the image and its zooms by 1, 1 + step, ... below stop, in single precision as in the reference.

    All zooms are one sparse matrix; where the reference's roundings decide the byte, they are followed.
    """
    size = images.shape[1]
    zooms, matrix = _zooms(size, *constants)
    bytes_last = images_last(images)
    values = single_unit(bytes_last)
    mean = matrix @ values.astype(np.float64).reshape(size * size, -1)
    mean *= 255 / (len(zooms) + 1)
    levels = mean.astype(np.uint8)
    open_ = near_a_level(mean, len(zooms) / 2 + 6)
    open_ = open_[mean.reshape(-1)[open_] > 0]  # zero is exact
    if len(open_):
        place = np.unravel_index(open_, values.shape)
        total = np.zeros(len(open_), np.float32)
        for known in zooms:
            total += known.at(values, *place).astype(np.float32)
        levels.reshape(-1)[open_] = quantise((values[place] + total) / np.float32(len(zooms) + 1))
    return images_first(levels.reshape(values.shape), images.shape[3])


@functools.lru_cache(maxsize=8)
def _zooms(size: int, stop: float, step: float) -> tuple[list[Zoom], Any]:
    """The zooms, and the sparse matrix of the image and all of them, (H * H, H * H)."""
    from scipy import sparse

    zooms = [Zoom(size, factor) for factor in np.arange(1, stop, step)]
    matrix = sparse.identity(size * size, format="csr")
    for known in zooms:
        one = sparse.csr_array(known.matrix())
        matrix = matrix + sparse.kron(one, one, format="csr")
    return zooms, matrix
