"""Noise: gaussian, shot (Poisson), impulse (salt and pepper), speckle. Each channel of a pixel has noise of its own.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

Each function takes images uint8 (N, H, W, C), the constant of one severity and a random 32-bit integer r for each value
(`draws.one_each`), and returns new images of the same shape and type. Above each function stand its constants, severity
1 first, and their meaning. With x a value in 0..1 and u = (r + 1/2) / 2**32, uniform in 0..1, x becomes what the
reference's formula makes of the quantile u of the noise. The formulas are monotone in u, so for each of the 256 values
there is a table of the r at which the resulting byte changes, and no formula is evaluated for a pixel.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.draws import Bits, one_each
from normbench.corruptions.operators import Bytes, Floats, quantise
from normbench.corruptions.registry import corruption

LEVELS = np.arange(256)


# Standard deviation, of values in 0..1.
@corruption(
    constants={
        "cifar": (0.04, 0.06, 0.08, 0.09, 0.1),
        "tiny_imagenet": (0.04, 0.08, 0.12, 0.15, 0.18),
        "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
    },
    draws=one_each,
)
def gaussian_noise(images: Bytes, deviation: float, bits: Bits) -> Bytes:
    """x + deviation * n with n standard normal; of 255 * deviation * n the whole part is added to the grey level."""
    lowest, steps = _normal_steps(float(deviation))
    return np.clip(steps(bits) + (images + np.int16(lowest)), 0, 255).astype(np.uint8)


# Number of photons of a value of 1.
@corruption(
    constants={
        "cifar": (500, 250, 100, 75, 50),
        "tiny_imagenet": (250, 100, 50, 30, 15),
        "imagenet": (60, 25, 12, 5, 3),
    },
    draws=one_each,
)
def shot_noise(images: Bytes, photons: float, bits: Bits) -> Bytes:
    """k / photons, where k has the Poisson distribution of mean x * photons."""
    return _poisson_steps(float(photons))(bits, images).astype(np.uint8)


# Probability that a value is replaced.
@corruption(
    constants={
        "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
        "tiny_imagenet": (0.01, 0.02, 0.05, 0.08, 0.14),
        "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
    },
    draws=one_each,
)
def impulse_noise(images: Bytes, probability: float, bits: Bits) -> Bytes:
    """A value becomes 255 where u <= probability / 2, and 0 where u is above that and <= probability."""
    result = images.copy()
    hits = np.flatnonzero(bits < round(probability * 2**32))
    result.reshape(-1)[hits] = np.where(bits.reshape(-1)[hits] < round(probability * 2**31), np.uint8(255), np.uint8(0))
    return result


# Standard deviation, relative to the value.
@corruption(
    constants={
        "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
        "tiny_imagenet": (0.15, 0.2, 0.25, 0.3, 0.35),
        "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
    },
    draws=one_each,
)
def speckle_noise(images: Bytes, deviation: float, bits: Bits) -> Bytes:
    """x + x * deviation * n with n standard normal."""
    return _speckle_steps(float(deviation))(bits, images).astype(np.uint8)


class Steps:
    """Step functions of a 32-bit integer r: the value is the number of thresholds in a row that are <= r.

    Most values are read from the table `known`, by the leading bits of r. It holds -1 if a threshold lies between two
    integers with the same leading bits; for these, the thresholds are searched.
    """

    def __init__(self, cumulative: Floats, bits: int):
        """cumulative: the thresholds of u, (rows, thresholds), in 0..1 and ascending in each row.

        bits: the number of leading bits of r.
        """
        rows, self.count = cumulative.shape
        thresholds = np.ceil(cumulative * 2**32 - 0.5).clip(0, 2**32).astype(np.int64)
        self.bits, self.rest = bits, 32 - bits
        cells = 1 << bits
        row = np.arange(rows)[:, None]

        def passed(cell: NDArray[np.int64]) -> NDArray[np.int64]:
            """How many thresholds of its row are in each cell or before it."""
            place = (row * (cells + 1) + cell).ravel()
            return np.bincount(place, minlength=rows * (cells + 1)).reshape(rows, -1).cumsum(axis=1)[:, :cells]

        first, last = passed(-(-thresholds >> self.rest)), passed(thresholds >> self.rest)
        self.known = np.where(first == last, first, -1).astype(np.int16).ravel()
        self.sorted = ((row << 32) + thresholds).ravel()

    def __call__(self, bits: Bits, row: Bytes | None = None) -> NDArray[np.int16]:
        """Returns the value of a step function at each integer in `bits`.

        row: the number of the step function for each integer; None if there is only one.
        """
        cell = bits >> np.uint32(self.rest)
        if row is not None:
            cell |= row.astype(np.uint32) << np.uint32(self.bits)
        result = self.known.take(cell)
        open_ = np.flatnonzero(result < 0)
        if len(open_):
            wanted = bits.reshape(-1)[open_].astype(np.int64)
            before = row.reshape(-1)[open_].astype(np.int64) if row is not None else np.int64(0)
            place = np.searchsorted(self.sorted, wanted + (before << 32), side="right")
            result.reshape(-1)[open_] = place - before * self.count
        return result


def _normal(values: Floats) -> Floats:
    """The standard normal distribution function."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.ravel().tolist()]).reshape(values.shape)


@functools.lru_cache(maxsize=8)
def _normal_steps(deviation: float) -> tuple[int, Steps]:
    width = 255 * deviation
    reach = math.ceil(6.5 * width)  # 32 bits end at 6.34 deviations
    return -reach - 1, Steps(_normal(np.arange(-reach, reach + 1) / width)[None], 16)


@functools.lru_cache(maxsize=2)
def _speckle_steps(deviation: float) -> Steps:
    with np.errstate(divide="ignore"):
        share = (LEVELS[1:] / LEVELS[:, None] - 1) / deviation
    return Steps(_normal(share), 12)


@functools.lru_cache(maxsize=2)
def _poisson_steps(photons: float) -> Steps:
    most = math.ceil(photons + 10 * math.sqrt(photons) + 20)
    counts = np.arange(most)
    factorials = np.array([math.lgamma(count + 1) for count in counts.tolist()])
    mean = (LEVELS[1:] / 255 * photons)[:, None]
    cumulative = np.vstack([np.ones(most), np.exp(counts * np.log(mean) - factorials - mean).cumsum(axis=1)])
    # The last count whose byte is below each level; where there is none, that level is always reached.
    last = np.searchsorted(quantise(counts / photons), LEVELS[1:]) - 1
    return Steps(np.where(last < 0, 0, cumulative[:, last]).clip(0, 1), 12)
