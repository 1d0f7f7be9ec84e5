"""Weather: fog and snow.

Each function takes images uint8 (N, H, H, C), the constants of one severity (see constants.py) and its draws
(see draws.py), and gives images of the same shape.
"""

from __future__ import annotations

import numpy as np

from normbench.corruptions.operators import Bytes, Floats, motion, quantise, single_unit, unit, zoom


def fog_side(size: int) -> int:
    """Side of the height map for images of side `size`: the next power of two."""
    return 1 << (size - 1).bit_length()


def fog(images: Bytes, constants: tuple[float, float], uniforms: Floats) -> Bytes:
    """`uniforms`: (N, side * side - 1) in -1..1, side = `fog_side(H)`, in the order in which points are set."""
    amount, decay = constants
    size = images.shape[1]
    heights = _plasma(uniforms, fog_side(size), decay)[:, :size, :size, None]
    brightest = unit(images.max(axis=(1, 2, 3), keepdims=True))
    values = unit(images)
    values += amount * heights
    values *= brightest
    values /= brightest + amount
    return quantise(values)


def _plasma(uniforms: Floats, side: int, decay: float) -> Floats:
    """Diamond-square height maps (N, side, side) on a torus, each scaled to 0..1."""
    heights = np.zeros((len(uniforms), side, side))
    step, roughness, used = side, 100.0, 0

    def jittered(total: Floats) -> Floats:
        """The mean of four neighbours plus the next draws, whose amplitude is the roughness squared (sic)."""
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


def snow(
    images: Bytes, constants: tuple[float, float, float, float, float, float, float], normals: Floats, angles: Floats
) -> Bytes:
    """RGB (N, H, H, 3). `normals`: standard normal (N, H, H), one a pixel; `angles`: (N,), degrees: how flakes fall."""
    mean, deviation, factor, threshold, radius, sigma, share = constants
    flakes = zoom((mean + deviation * normals).transpose(1, 2, 0), factor)
    flakes[flakes < threshold] = 0
    layer = unit(motion(quantise(flakes).transpose(2, 0, 1)[..., None], radius, sigma, angles))
    values = single_unit(images)
    grey = sum(np.float32(weight) * values[..., i : i + 1] for i, weight in enumerate((0.299, 0.587, 0.114)))
    whiter = share * values + (1 - share) * np.maximum(values, 1.5 * grey + 0.5)
    return quantise(whiter + layer + layer[:, ::-1, ::-1])
