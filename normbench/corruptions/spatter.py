"""Spatter: drops of water (severities 1 to 3) or mud (4 and 5) on the lens.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

What the reference calls of OpenCV (Canny, the chamfer distance, histogram equalisation, small filters) is written here
for many layers at a time. Checked against OpenCV 5.0.0, byte for byte: the images, and the layers too where OpenCV uses
its own distance transform (Intel's, which its builds for x86 prefer, rounds otherwise, far from the drops).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.draws import Draws, Stream
from normbench.corruptions.operators import Bytes, Floats, Singles, gaussian, quantise, single_unit
from normbench.corruptions.registry import corruption

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

WATER = (175, 238, 238)  # RGB
MUD = (63, 42, 20)
RELIEF = np.array([(-2, -1, 0), (-1, 1, 1), (0, 1, 2)], np.int32)  # A filter that lights drops from one corner.
FARTHEST = 20  # Larger distances to the edge of a drop, in pixels, count as this one.

# OpenCV's 5 x 5 distance mask. Each step: rows up, columns aside, length in 1/65536 pixel (1, 1.4 and 2.1969 pixels).
ONE = 1 << 16
STEPS = ((1, 0, ONE), (1, 1, 91750), (1, 2, 143976), (2, 1, 143976))


def _spatter_normals(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (stream.normals(*images.shape[1:3]),)


# Mean and deviation of the noise that is the liquid, standard deviation in pixels that it is smoothed with, threshold
# below which there is none, opacity of water or standard deviation in pixels of the edge of mud, and 1 for mud.
@corruption(
    constants={
        "cifar": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        "tiny_imagenet": (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        "imagenet": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    },
    draws=_spatter_normals,
    needs_colour=True,
)
def spatter(images: Bytes, constants: tuple[float, float, float, float, float, int], normals: Floats) -> Bytes:
    """Turns smoothed noise above a threshold into a liquid, lit from one side if it is water; RGB (N, H, W, 3).

    normals: standard normal (N, H, W). The liquid does not depend on the image.
    """
    mean, deviation, sigma, threshold, strength, mud = constants
    liquid = gaussian(mean + deviation * normals, sigma)
    liquid[liquid < threshold] = 0
    values = single_unit(images)
    if mud:
        share = gaussian((liquid > threshold).astype(np.float32), strength)[..., None]
        share[share < 0.8] = 0
        return quantise(values * (1 - share) + share * _colour(MUD))
    # Levels above 255 wrap round, as in the reference. The cast by way of integers makes that so on every machine.
    drops = (liquid * 255).astype(np.int64).astype(np.uint8)
    light = drops.astype(np.float32) * _relief(drops)
    brightest = light.max(axis=(1, 2), keepdims=True)
    light = light / np.where(brightest == 0, np.float32(1), brightest) * np.float32(strength)
    return quantise(values + light[..., None] * _colour(WATER))


def _colour(levels: tuple[int, int, int]) -> Singles:
    return (np.array(levels) / 255).astype(np.float32)


def _relief(drops: Bytes) -> Bytes:
    """Returns the brightness of the drops (N, H, W) lit from one side, uint8: far from their edges they are high."""
    distance = np.minimum(_distance(_edges(drops)), FARTHEST * ONE)
    around = _around(distance).astype(np.float64) / ONE * (1 / 9)
    depth = _equalise(around.astype(np.float32).astype(np.uint8))
    bright = np.clip(_filter(depth, RELIEF), 0, 255)
    return ((2 * _around(bright) + 9) // 18).astype(np.uint8)


def _shifted(padded: NDArray, row: int, column: int) -> NDArray:
    """Returns the value `row` below and `column` to the right of each pixel, from arrays padded by 1."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    return padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]


def _around(layers: NDArray) -> Ints:
    """Returns the sum of 3 x 3 pixels; the border is mirrored at the outer pixels."""
    padded = np.pad(layers.astype(np.int32), [(0, 0), (1, 1), (1, 1)], mode="reflect")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def _filter(layers: NDArray, kernel: Ints) -> Ints:
    """Returns the correlation with a 3 x 3 kernel of integers; the border is mirrored at the outer pixels."""
    padded = np.pad(layers.astype(np.int32), [(0, 0), (1, 1), (1, 1)], mode="reflect")
    result = np.zeros(layers.shape, np.int32)
    for row, column in np.argwhere(kernel):
        result += kernel[row, column] * _shifted(padded, row - 1, column - 1)
    return result


def _edges(layers: Bytes, low: int = 50, high: int = 150) -> Bools:
    """Returns Canny's edges: 3 x 3 Sobel, sum of absolute derivatives, thinned along four directions, hysteresis."""
    padded = np.pad(layers.astype(np.int32), [(0, 0), (1, 1), (1, 1)], mode="edge")

    def sobel(axis: int) -> Ints:
        smooth = padded + np.roll(padded, 1, 3 - axis) + padded + np.roll(padded, -1, 3 - axis)
        return (np.roll(smooth, -1, axis) - np.roll(smooth, 1, axis))[:, 1:-1, 1:-1]

    across, down = sobel(2), sobel(1)
    strength = np.abs(across) + np.abs(down)
    neighbours = np.pad(strength, [(0, 0), (1, 1), (1, 1)])

    def beats(row: int, column: int) -> Bools:
        return strength > _shifted(neighbours, row, column)

    def holds(row: int, column: int) -> Bools:
        return strength >= _shifted(neighbours, row, column)

    # The tangents of 22.5 and 67.5 degrees, in 1/32768 as OpenCV has them.
    flat = np.abs(across) * 13573  # gradients are at most 1020, so 32 bits suffice
    steep = flat + (np.abs(across) << 16)
    height = np.abs(down) << 15
    opposed = (across ^ down) < 0
    diagonal = np.where(opposed, beats(-1, 1) & beats(1, -1), beats(-1, -1) & beats(1, 1))
    upright = np.where(height > steep, beats(-1, 0) & holds(1, 0), diagonal)
    thin = np.where(height < flat, beats(0, -1) & holds(0, 1), upright)

    candidates = thin & (strength > low)
    edges = candidates & (strength > high)
    while True:
        padded_edges = np.pad(edges, [(0, 0), (1, 1), (1, 1)])
        grown = edges.copy()
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                grown |= _shifted(padded_edges, row, column)
        grown &= candidates
        if np.array_equal(grown, edges):
            return edges
        edges = grown


def _distance(edges: Bools) -> Ints:
    """Returns the chamfer distance of each pixel to the nearest edge in 1/65536 pixel, above FARTHEST if it is far."""
    height, width = edges.shape[1:]
    padded = np.full((len(edges), height + 4, width + 4), (FARTHEST + 1) * ONE, np.int32)
    padded[:, 2:-2, 2:-2][edges] = 0
    straight = np.arange(width, dtype=np.int32) * ONE
    # Row by row from what lies above and to the left, then the same upside down.
    for view in (padded, padded[:, ::-1, ::-1]):
        for y in range(2, height + 2):
            row = view[:, y, 2:-2]
            for above, aside, length in STEPS:
                for x in (2 - aside, 2 + aside):
                    row = np.minimum(row, view[:, y - above, x : x + width] + length)
            view[:, y, 2:-2] = np.minimum.accumulate(row - straight, axis=1) + straight
    return padded[:, 2:-2, 2:-2]


def _equalise(layers: Bytes) -> Bytes:
    """Equalises the histogram of each layer; a layer with a single level stays as it is."""
    count, pixels = len(layers), layers[0].size
    keys = np.arange(count)[:, None] * 256 + layers.reshape(count, -1)
    total = np.bincount(keys.ravel(), minlength=count * 256).reshape(count, 256).cumsum(axis=1)
    lowest = layers.min(axis=(1, 2))
    first = np.take_along_axis(total, lowest[:, None].astype(np.intp), axis=1)
    scale = np.float32(255) / np.maximum(pixels - first, 1).astype(np.float32)
    table = np.rint(np.maximum(total - first, 0).astype(np.float32) * scale).astype(np.uint8)
    table = np.where(first == pixels, lowest[:, None], table)
    return np.take_along_axis(table, layers.reshape(count, -1).astype(np.intp), axis=1).reshape(layers.shape)
