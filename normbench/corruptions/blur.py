"""Blur: gaussian, defocus, glass, motion, zoom.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

Each function takes images uint8 (N, H, W, C), the constants of one severity and its random arrays, if any, and returns
new images of the same shape and type. Above each function stand its constants, severity 1 first, and their meaning.
Constants in pixels hold for every image size.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.draws import Draws, Stream, below, uniform
from normbench.corruptions.filters import SmoothDisk, smooth
from normbench.corruptions.operators import (
    SINGLE_ROUNDING,
    Bytes,
    Floats,
    Places,
    Zoom,
    images_first,
    images_last,
    motion,
    quantise,
    settled,
    single_unit,
)
from normbench.corruptions.registry import corruption

MATRIX = 1 << 17  # pixels of an image


# Standard deviation in pixels.
@corruption(
    constants={
        "cifar": (0.4, 0.6, 0.7, 0.8, 1),
        "tiny_imagenet": (0.5, 0.75, 1, 1.25, 1.5),
        "imagenet": (1, 2, 3, 4, 6),
    },
)
def gaussian_blur(images: Bytes, sigma: float) -> Bytes:
    """Applies a gaussian filter; the outer pixels are repeated outside of the image."""
    return smooth(images, sigma)


# Radius of the disk and the standard deviation that it is smoothed with, in pixels.
@corruption(
    constants={
        "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "tiny_imagenet": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
)
def defocus_blur(images: Bytes, constants: tuple[float, float]) -> Bytes:
    """Takes the mean over a disk with a smooth edge; outside of the image, the image is mirrored."""
    return _disk(*constants)(images)


@functools.cache
def _disk(radius: float, sigma: float) -> SmoothDisk:
    """Returns a disk of sum 1, smoothed by a gaussian of `sigma` pixels, in single precision like the reference.

    Like there, it is smoothed on a grid that ends 8 pixels from the centre, or `radius` pixels if that is more, with a
    mirrored border. Rows and columns of zeros are cut off.
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
    return SmoothDisk(disk[used][:, used], radius, weights.astype(np.float64))


def _glass_offsets(stream: Stream, images: Bytes, constants: tuple[float, int, int]) -> Draws:
    _, distance, passes = constants
    rows, columns = (side - 2 * distance for side in images.shape[1:3])
    shape = (len(images), passes, rows, columns, 2)
    return (below(stream.bits(passes * rows * columns * 2).reshape(shape), 2 * distance) - distance,)


# Standard deviation of the two blurs and the largest distance that a pixel is moved, in pixels; number of passes.
@corruption(
    constants={
        "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "tiny_imagenet": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    },
    draws=_glass_offsets,
)
def glass_blur(images: Bytes, constants: tuple[float, int, int], offsets: NDArray[np.int64]) -> Bytes:
    """Overwrites each pixel with a random neighbour, one pixel after the other, between two gaussian blurs.

    offsets: (N, passes, H - 2 d, W - 2 d, 2), the positions of the neighbours, in -d..d-1 with d the distance; the last
    axis is (x, y). They are in the order in which the reference visits the pixels, from the last row and column
    backwards. The reference means to swap two pixels, but its two views share memory, so it copies one onto the other.
    """
    sigma, distance, passes = constants
    count, height, width, channels = images.shape
    pixels = np.zeros((count, height, width, 4 if channels == 3 else 1), np.uint8)
    pixels[..., :channels] = smooth(images, sigma)
    # Each pixel is read as one number, of three bytes and an empty one, or of one byte.
    items = pixels.view(np.uint32 if channels == 3 else np.uint8).reshape(-1)
    moved = tuple(slice(distance + 1, side - distance + 1) for side in (height, width))
    place = np.arange(height * width).reshape(height, width)
    first = (np.arange(count) * (height * width))[:, None, None]
    for i in range(passes):
        steps = offsets[:, i, ::-1, ::-1]
        source = np.repeat(place[None], count, axis=0)
        source[:, *moved] += steps[..., 1] * width + steps[..., 0]
        if distance > 1:
            source = _followed(source.reshape(count, -1), place.reshape(-1)).reshape(source.shape)
        source += first
        items = items.take(source.reshape(-1))
    pixels = items.view(np.uint8).reshape(count, height, width, -1)[..., :channels]
    return smooth(pixels, sigma)


def _followed(source: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the pixel whose old value each pixel has after one pass, (N, H * W).

    source: the pixel that each pixel was copied from, (N, H * W). place: the number of each pixel, (H * W,). The pass
    goes backwards, so a source with a higher number had been overwritten before with the value of its own source. Such
    chains are followed to their end, twice as far in each step. At distance 1 there are none.
    """
    chained = source > place
    while chained.any():
        source, chained = (
            np.where(chained, np.take_along_axis(source, source, axis=1), source),
            chained & np.take_along_axis(chained, source, axis=1),
        )
    return source


def _motion_angles(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (uniform(stream.bits(1)[:, 0], -45, 45),)


# Radius and standard deviation, in pixels.
@corruption(
    constants={
        "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "tiny_imagenet": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
    draws=_motion_angles,
)
def motion_blur(images: Bytes, constants: tuple[float, float], angles: Floats) -> Bytes:
    """Blurs along a line to one side of each pixel. angles: (N,), the direction in degrees, in -45..45."""
    radius, sigma = constants
    return motion(images, radius, sigma, angles)


# The factors of the zooms go from 1 to below the first number, in steps of the second.
@corruption(
    constants={
        "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "tiny_imagenet": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    },
)
def zoom_blur(images: Bytes, constants: tuple[float, float]) -> Bytes:
    """Takes the mean of the image and its zooms, which the reference computes in single precision.

    One sparse matrix computes all zooms at once. If rounding could change a byte, the zooms of that pixel are computed
    one after the other, like the reference does. For images of more than MATRIX pixels, for which the matrix would take
    much memory, all pixels are computed in this way.
    """
    height, width = images.shape[1:3]
    bytes_last = images_last(images)
    values = single_unit(bytes_last)
    if height * width > MATRIX:
        factors = np.arange(1, *constants)
        whole = np.zeros_like(values)
        for factor in factors:
            whole += Zoom(height, width, factor)(values).astype(np.float32)
        return images_first(quantise((values + whole) / np.float32(len(factors) + 1)), images.shape[3])
    zooms, matrix = _zooms(height, width, *constants)
    mean = (matrix @ values.astype(np.float64).reshape(height * width, -1)).reshape(values.shape)
    mean *= 255 / (len(zooms) + 1)

    def exact(places: Places) -> Bytes:
        place = np.unravel_index(places, values.shape)
        each = Zoom.all_at(zooms, values, *place).astype(np.float32)
        return quantise((values[place] + np.add.accumulate(each, axis=0)[-1]) / np.float32(len(zooms) + 1))

    levels = settled(mean, (len(zooms) + 12) * SINGLE_ROUNDING, exact)
    return images_first(levels, images.shape[3])


@functools.lru_cache(maxsize=8)
def _zooms(height: int, width: int, stop: float, step: float) -> tuple[list[Zoom], Any]:
    """Returns the zooms, and the sparse matrix (H * W, H * W) that computes the sum of the image and all of them."""
    from scipy import sparse

    zooms = [Zoom(height, width, factor) for factor in np.arange(1, stop, step)]
    matrix = sparse.identity(height * width, format="csr")
    for known in zooms:
        rows, columns = (sparse.csr_array(axis.matrix()) for axis in (known.rows, known.columns))
        matrix = matrix + sparse.kron(rows, columns, format="csr")
    return zooms, matrix
