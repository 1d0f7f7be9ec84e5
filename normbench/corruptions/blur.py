"""Blur: gaussian, defocus, glass, motion, zoom.

Each function takes images uint8 (N, H, H, C), the constants of one severity (see constants.py) and its draws, if any
(see draws.py), and gives images of the same shape.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import (
    Bytes,
    Floats,
    Singles,
    gaussian,
    images_first,
    images_last,
    motion,
    quantise,
    unit,
    zoom,
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
    pixels = (gaussian(unit(images), sigma) * 255).astype(np.uint8).reshape(count, -1, channels)
    moved = slice(distance + 1, size - distance + 1)
    for i in range(passes):
        steps = offsets[:, i, ::-1, ::-1]
        place = np.arange(size * size)
        source = np.tile(place.reshape(size, size), (count, 1, 1))
        source[:, moved, moved] += steps[..., 1] * size + steps[..., 0]
        pixels = np.take_along_axis(pixels, _followed(source.reshape(count, -1), place)[..., None], axis=1)
    return quantise(gaussian(unit(pixels.reshape(images.shape)), sigma))


def _followed(source: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each value comes from after one pass, (N, H * H), from the place that each pixel looks at.

    A place further on was scanned before, so that what is found there is already that from its own source: such chains
    are followed, twice as far each time. With distance 1 there are none.
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
    """Mean of the image and its zooms by 1, 1 + step, ... below stop, in single precision as in the reference."""
    stop, step = constants
    values = images_last(unit(images).astype(np.float32))
    factors = np.arange(1, stop, step)
    total = np.zeros_like(values)
    for factor in factors:
        total += zoom(values, factor).astype(np.float32)
    mean = (values + total) / np.float32(len(factors) + 1)
    return quantise(images_first(mean, images.shape[3]))
