"""Noise: gaussian, shot (Poisson), impulse (salt and pepper), speckle. Every channel of a pixel has draws of its own.

Each function takes images uint8 (N, H, W, C), the constants of one severity (see constants.py) and its draws
(see draws.py), and gives images of the same shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import Bytes, Floats, quantise, unit


def gaussian_noise(images: Bytes, deviation: float, normals: Floats) -> Bytes:
    """`normals`: standard normal, of the images' shape."""
    return quantise(unit(images) + deviation * normals)


def shot_noise(images: Bytes, photons: float, counts: NDArray[np.int64]) -> Bytes:
    """`counts`: Poisson draws of mean `photons` * value, of the images' shape."""
    return quantise(counts / float(photons))


def impulse_noise(images: Bytes, probability: float, hits: Floats, signs: Floats) -> Bytes:
    """`hits`, `signs`: uniform in 0..1, of the images' shape: whether a value is replaced, and by white or black."""
    return np.where(hits <= probability, np.where(signs <= 0.5, np.uint8(255), np.uint8(0)), images)


def speckle_noise(images: Bytes, deviation: float, normals: Floats) -> Bytes:
    """`normals`: standard normal, of the images' shape."""
    values = unit(images)
    return quantise(values + values * (deviation * normals))
