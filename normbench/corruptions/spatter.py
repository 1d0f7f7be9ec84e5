"""Spatter: drops of water (severities 1 to 3) or mud (4 and 5) on the lens.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

The layers of drops are made by OpenCV, as in the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normbench.corruptions.draws import Draws, Stream
from normbench.corruptions.operators import (
    DOUBLES,
    SINGLE_ROUNDING,
    Bytes,
    Floats,
    Places,
    Singles,
    as_images,
    as_planes,
    gaussian,
    gaussian_weights,
    quantise,
    settled,
    single_unit,
)
from normbench.corruptions.registry import corruption

WATER = (175, 238, 238)  # RGB
MUD = (63, 42, 20)
LOW, HIGH = 50, 150  # Edges of drops start at gradients above the second level and go on at those above the first.
RELIEF = np.array([(-2, -1, 0), (-1, 1, 1), (0, 1, 2)], np.float32)  # A filter that lights drops from one corner.
FARTHEST = 20  # Larger distances to the edge of a drop, in pixels, count as this one.


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
    liquid = _liquid(mean + deviation * normals, sigma, threshold)
    if mud:
        dirt: Singles = gaussian((liquid > threshold).astype(np.float32), strength)
        dirt[dirt < 0.8] = 0
        return _mixed(images, 1 - dirt, dirt, MUD)
    # Levels above 255 wrap round, as in the reference. The cast by way of integers makes that so on every machine.
    drops: Bytes = (liquid * 255).astype(np.int64).astype(np.uint8)
    light: Singles = drops.astype(np.float32)
    light *= np.stack([_relief(layer) for layer in drops])
    brightest = light.max(axis=(1, 2), keepdims=True)
    light /= np.where(brightest == 0, np.float32(1), brightest)
    light *= np.float32(strength)
    return _mixed(images, np.ones_like(light), light, WATER)


def _mixed(images: Bytes, clear: Singles, share: Singles, colour: tuple[int, int, int]) -> Bytes:
    """`clear` times the image plus `share` times the colour, in single precision; both shares are (N, H, W)."""
    planes = as_planes(images)
    levels = planes.astype(np.float32)
    untouched = np.where(share == 0, np.float32(0.5), np.float32(0))  # moves whole levels away from their limits
    for level, one in zip(levels, colour, strict=True):
        level *= clear
        level += share * np.float32(one)
        level += untouched
    np.minimum(levels, 255.5, out=levels)

    def exact(places: Places) -> Bytes:
        channel, pixel = np.divmod(places, share.size)
        values = single_unit(planes.reshape(-1)[places])
        added = share.reshape(-1)[pixel] * (np.array(colour) / 255).astype(np.float32)[channel]
        return quantise(values * clear.reshape(-1)[pixel] + added)

    return as_images(settled(levels, 12 * SINGLE_ROUNDING, exact))


def _liquid(noise: Floats, sigma: float, threshold: float) -> Floats:
    """Smooths noise (N, H, W) and sets what is below the threshold to 0."""
    import cv2

    weights = gaussian_weights(sigma)
    liquid = np.empty_like(noise)
    for layer, target in zip(noise, liquid, strict=True):
        cv2.sepFilter2D(layer, cv2.CV_64F, weights, weights, dst=target, borderType=cv2.BORDER_REPLICATE)
    # OpenCV adds in another order than the reference. Where that could show, the layer is smoothed in the reference's.
    levels = liquid * 255
    near = (np.abs(levels - np.rint(levels)) < DOUBLES) | (np.abs(liquid - threshold) < DOUBLES)
    doubtful = near.any(axis=(1, 2))
    if doubtful.any():
        liquid[doubtful] = gaussian(noise[doubtful], sigma)
    liquid[liquid < threshold] = 0
    return liquid


def _relief(drops: Bytes) -> Bytes:
    """Returns the brightness of the drops (H, W) lit from one side, uint8: far from their edges they are high."""
    import cv2

    edges = cv2.Canny(drops, LOW, HIGH)
    distance = np.minimum(cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5), FARTHEST)
    depth = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    bright = cv2.filter2D(depth, cv2.CV_8U, RELIEF)
    return np.asarray(cv2.blur(bright, (3, 3)), np.uint8)
