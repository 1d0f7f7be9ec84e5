"""Weather: fog and snow.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

Each function takes images uint8 (N, H, W, C), the constants of one severity and its random arrays, if any, and returns
new images of the same shape and type. Above each function stand its constants, severity 1 first, and their meaning.
Constants in pixels hold for every image size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from normbench.corruptions.draws import Draws, Stream, uniform
from normbench.corruptions.operators import (
    DOUBLES,
    SINGLE_ROUNDING,
    Bytes,
    Floats,
    Places,
    Zoom,
    as_images,
    as_planes,
    motion,
    quantise,
    settled,
    single_unit,
    unit,
)
from normbench.corruptions.registry import corruption


def fog_side(height: int, width: int) -> int:
    """Returns the side of the square height map for images of a size: the next power of two of the longer side."""
    return 1 << (max(height, width) - 1).bit_length()


def _fog_uniforms(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (uniform(stream.bits(fog_side(*images.shape[1:3]) ** 2 - 1), -1, 1),)


# Amount of fog, and what the roughness of its height map is divided by from one scale to the next finer one.
@corruption(
    constants={
        "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "tiny_imagenet": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    },
    draws=_fog_uniforms,
)
def fog(images: Bytes, constants: tuple[float, float], uniforms: Floats) -> Bytes:
    """Adds a fractal height map, and darkens the image so that its largest value stays the same.

    uniforms: (N, side * side - 1) in -1..1 with side = `fog_side(H, W)`, in the order in which the points are computed.
    """
    amount, decay = constants
    height, width = images.shape[1:3]
    heights = _plasma(uniforms, fog_side(height, width), decay)[:, :height, :width, None]
    brightest = unit(images.max(axis=(1, 2, 3), keepdims=True))
    values = unit(images)
    values += amount * heights
    values *= brightest
    values /= brightest + amount
    return quantise(values)


def _plasma(uniforms: Floats, side: int, decay: float) -> Floats:
    """Returns height maps (N, side, side) by the diamond-square algorithm, periodic in both directions, in 0..1."""
    heights = np.zeros((len(uniforms), side, side))
    step, roughness, used = side, 100.0, 0

    def jittered(total: Floats) -> Floats:
        """A quarter of `total`, a sum of four neighbours, plus random numbers.

        Their amplitude is the square of the roughness, as in the reference.
        """
        nonlocal used
        count = total[0].size
        draws = uniforms[:, used : used + count].reshape(total.shape)
        used += count
        return total / 4 + roughness * (roughness * draws)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        centres = heights[:, half::step, half::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        centres[:] = jittered(pairs + np.roll(pairs, -1, axis=2))
        vertical, horizontal = centres + np.roll(centres, 1, axis=1), corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = jittered(vertical + horizontal)
        horizontal, vertical = centres + np.roll(centres, 1, axis=2), corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = jittered(horizontal + vertical)
        step, roughness = half, roughness / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def _snow_draws(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return stream.normals(*images.shape[1:3]), uniform(stream.bits(1)[:, 0], -135, -45)


# Mean and deviation of the noise that flakes are made of, factor of its zoom, threshold below which there is no flake,
# radius and standard deviation of the motion blur in pixels, share of the image that is not whitened.
@corruption(
    constants={
        "cifar": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "tiny_imagenet": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "imagenet": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    },
    draws=_snow_draws,
    needs_colour=True,
)
def snow(
    images: Bytes, constants: tuple[float, float, float, float, float, float, float], normals: Floats, angles: Floats
) -> Bytes:
    """Adds noise above a threshold, blurred along the fall of the flakes, to a whitened image; RGB (N, H, W, 3).

    normals: standard normal (N, H, W), one for each pixel. angles: (N,), the direction of the fall, in degrees.
    """
    mean, deviation, factor, threshold, radius, sigma, share = constants
    flakes = _enlarged(mean + deviation * normals, factor, threshold)
    flakes[flakes < threshold] = 0
    layer = motion(quantise(flakes)[..., None], radius, sigma, angles)[..., 0]
    both = layer + layer[:, ::-1, ::-1].astype(np.float32)
    planes = as_planes(images)
    levels = planes.astype(np.float32)
    whiter = np.float32(1.5 * 0.299) * levels[0] + np.float32(1.5 * 0.587) * levels[1]
    whiter += np.float32(1.5 * 0.114) * levels[2]
    whiter += np.float32(127.5)
    for level in levels:
        white = np.maximum(level, whiter)
        white *= np.float32(1 - share)
        level *= np.float32(share)
        level += white
        level += both
    np.minimum(levels, 255.5, out=levels)

    def exact(places: Places) -> Bytes:
        channel, pixel = np.divmod(places, layer.size)
        colours = single_unit(planes.reshape(3, -1)[:, pixel])
        values = colours[channel, np.arange(len(places))]
        grey = sum(np.float32(weight) * colour for weight, colour in zip((0.299, 0.587, 0.114), colours, strict=True))
        result = share * values + (1 - share) * np.maximum(values, 1.5 * grey + 0.5)
        turned = layer[:, ::-1, ::-1].reshape(-1)
        return quantise(result + unit(layer.reshape(-1)[pixel]) + unit(turned[pixel]))

    return as_images(settled(levels, 24 * SINGLE_ROUNDING, exact))


def _enlarged(noise: Floats, factor: float, threshold: float) -> Floats:
    """Returns noise (N, H, W) enlarged: to the bit wherever that decides a grey level, or on which side of `threshold`
    a value is."""
    zoom = Zoom(noise.shape[1], noise.shape[2], factor)
    result = zoom.layers(noise)
    levels = result * 255
    near = (np.abs(levels - np.rint(levels)) < DOUBLES) | (np.abs(result - threshold) < DOUBLES)
    image, row, column = np.nonzero(near)
    result[near] = Zoom.all_at([zoom], noise.transpose(1, 2, 0), row, column, image)[0]
    return result
