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
    """A disk of sum 1 after a 3 x 3 gaussian of `sigma`, in single precision as in the reference."""
    reach = math.floor(radius) + 1
    grid = np.arange(-reach, reach + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    weights = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma * sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(disk, [(1, 1) if i == axis else (0, 0) for i in (0, 1)])
        before, here, after = (np.take(padded, np.arange(len(grid)) + i, axis) for i in range(3))
        disk = before * weights[0] + here * weights[1] + after * weights[2]
    return disk


def glass_blur(images: Bytes, constants: tuple[float, int, int], offsets: NDArray[np.int64]) -> Bytes:
    """Each pixel takes the place of a neighbour, between two gaussian blurs.

    `offsets`: (N, passes, H - 2 d, H - 2 d, 2), in -d..d-1, last axis (x, y), in the order of the reference's scan,
    which goes from the last row and column backwards. The reference means to swap two pixels but, as its two views
    share memory, copies one; so does this. With distance d = 1 no pixel is read after it was replaced, so that a pass
    is one gather.
    """
    sigma, distance, passes = constants
    if distance != 1:
        raise ValueError(f"glass_blur: distance {distance}: only 1 can be done in one gather")
    pixels = (gaussian(unit(images), sigma) * 255).astype(np.uint8)
    number = np.arange(len(images))[:, None, None]
    rows, columns = np.arange(2, images.shape[1])[:, None], np.arange(2, images.shape[2])
    for i in range(passes):
        forward = offsets[:, i, ::-1, ::-1]
        pixels[:, 2:, 2:] = pixels[number, rows + forward[..., 1], columns + forward[..., 0]]
    return quantise(gaussian(unit(pixels), sigma))


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
