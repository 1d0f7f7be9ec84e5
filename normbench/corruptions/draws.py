"""The random numbers of the corruptions: pure functions of seed, corruption, severity and the image's number.

What an image becomes therefore depends neither on the images beside it nor on the size of a batch or the number of
workers. All random numbers of one (seed, corruption, severity) come from one key of the counter-based generator Philox,
and each image has a range of counters of its own, so that images with consecutive numbers are drawn in one call.
Philox's bits never change. Their distributions are computed here or by `RandomState`, which numpy keeps as it is, so
another release of numpy gives the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import Bytes, Floats

Draws = tuple[np.ndarray, ...]
Bits = NDArray[np.uint32]


class Stream:
    """The random numbers for N images of one corruption at one severity.

    index: integers (N,), the numbers of the images in their dataset. Call each method once at most: a second call
    returns the same numbers again.
    """

    def __init__(self, seed: int, name: str, severity: int, index: np.ndarray):
        self.key = _key(f"{seed}/{name}/{severity}")
        self.index = index

    def bits(self, count: int) -> Bits:
        """Returns random 32-bit integers, uint32 (N, count), uniform over all 2**32 values.

        A block of Philox has 8 such integers. Image i uses whole blocks, starting with block number i * blocks, and the
        lower half of each 64-bit word first.
        """
        blocks = -(-count // 8)
        result = np.empty((len(self.index), 4 * blocks), np.dtype("<u8"))
        ends = [*(np.flatnonzero(np.diff(self.index) != 1) + 1).tolist(), len(self.index)]
        start = 0
        for end in ends if len(self.index) else ():
            first = int(self.index[start]) % (1 << 64)
            random = np.random.Philox(key=self.key, counter=first * blocks)
            result[start:end] = random.random_raw((end - start) * 4 * blocks).reshape(end - start, -1)
            start = end
        return result.view(np.dtype("<u4"))[:, :count]

    def normals(self, *shape: int) -> Floats:
        """Returns standard normal numbers, float64 (N, *shape), by RandomState, from counters unused by `bits`."""
        random = np.random.RandomState(np.random.Philox(key=self.key))
        state: Any = random.get_state(legacy=False)
        result = np.empty((len(self.index), *shape))
        for number, target in zip(self.index.tolist(), result, strict=True):
            state["state"]["counter"] = np.array([0, number % (1 << 64), 0, 1], np.uint64)
            random.set_state(state)
            target[...] = random.standard_normal(shape)
        return result


def uniform(bits: Bits, low: float, high: float) -> Floats:
    """Returns uniform numbers between low and high, float64, of the shape of `bits`.

    The interval is divided into 2**32 equal parts; each integer becomes the middle of its part.
    """
    values: Floats = (bits + np.float64(0.5)) * ((high - low) / 2**32) + low
    return values


def below(bits: Bits, limit: Any) -> NDArray[np.int64]:
    """Returns uniform integers in 0..limit-1, int64, of the shape of `bits`.

    limit: an integer or an array of integers, which is broadcast; far below 2**32.
    """
    if isinstance(limit, int) and limit.bit_count() == 1 and limit > 1:
        return (bits >> np.uint32(33 - limit.bit_length())).astype(np.int64)
    return ((bits * np.asarray(limit).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def one_each(stream: Stream, images: Bytes, constants: Any) -> Draws:
    """The `draws` of a corruption that needs one random 32-bit integer for each value: returns uint32 (N, H, W, C)."""
    return (stream.bits(images[0].size if len(images) else 0).reshape(images.shape),)


def bits(seed: int, name: str, severity: int, index: int) -> np.random.Philox:
    """Random bits for one image, for code that works image by image."""
    return np.random.Philox(key=_key(f"{seed}/{name}/{severity}/{index}"))


def generator(seed: int, name: str, severity: int, index: int) -> np.random.RandomState:
    """Returns a random generator for one image, for code that processes one image at a time."""
    return np.random.RandomState(bits(seed, name, severity, index))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
