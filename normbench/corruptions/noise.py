"""Noise: gaussian, shot (Poisson), impulse (salt and pepper), speckle. Every channel of a pixel has draws of its own.

Each function takes images uint8 (N, H, W, C), the constants of one severity (see constants.py) and a random 32-bit
integer r for each value (see draws.py). With u = (r + 1/2) / 2**32, uniform in 0..1, each value becomes what the
reference's formula makes of the quantile u of its distribution. As the formulas are monotone in it, the levels at which
the resulting byte changes are known for each of the 256 values: they are tabulated, and nothing is computed in between.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import Bytes, Floats, quantise

Bits = NDArray[np.uint32]
LEVELS = np.arange(256)


def gaussian_noise(images: Bytes, deviation: float, bits: Bits) -> Bytes:
    """x + deviation * n, n standard normal: in grey levels, the whole part of 255 deviation n is added."""
    lowest, steps = _normal_steps(float(deviation))
    return np.clip(steps(bits) + (images + np.int16(lowest)), 0, 255).astype(np.uint8)


def shot_noise(images: Bytes, photons: float, bits: Bits) -> Bytes:
    """k / photons, k of the Poisson distribution of mean x * photons."""
    return _poisson_steps(float(photons))(bits, images).astype(np.uint8)


def impulse_noise(images: Bytes, probability: float, bits: Bits) -> Bytes:
    """u <= probability makes a value white (the lower half) or black."""
    result = images.copy()
    hits = np.flatnonzero(bits < round(probability * 2**32))
    result.reshape(-1)[hits] = np.where(bits.reshape(-1)[hits] < round(probability * 2**31), np.uint8(255), np.uint8(0))
    return result


def speckle_noise(images: Bytes, deviation: float, bits: Bits) -> Bytes:
    """x + x * deviation * n, n standard normal."""
    return _speckle_steps(float(deviation))(bits, images).astype(np.uint8)


class Steps:
    """Step functions of a 32-bit integer r: rows of ascending thresholds; the value is how many are <= r.

    `known` has the value for the first bits of r, or -1 where a threshold falls among the integers with these.
    """

    def __init__(self, cumulative: Floats, bits: int):
        """`cumulative`: (rows, thresholds), ascending, in 0..1: u is compared with them."""
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
        """The values for r = `bits`, in the rows given, or in the only one."""
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
