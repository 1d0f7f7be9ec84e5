"""The random draws of the corruptions: pure functions of seed, corruption, severity and the image's number.

So what an image becomes does not depend on the images beside it, on the size of a batch or on the number of workers.
All draws of one (seed, corruption, severity) have one Philox key, and each image has counters of its own: images whose
numbers follow each other are drawn in one call. What is made of the bits is written here, or is `RandomState`, whose
distributions are frozen: another release of numpy gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.frost import textures
from normbench.corruptions.operators import Bytes, Floats
from normbench.corruptions.weather import fog_side

Draws = tuple[np.ndarray, ...]
Bits = NDArray[np.uint32]


def draw(name: str, images: Bytes, constants: Any, seed: int, severity: int, index: np.ndarray) -> Draws:
    """What the function of the corruption `name` takes after its constants: arrays with the images on axis 0.

    `images` uint8 (N, H, W, C), `index` (N,) integers; empty for a corruption that draws nothing.
    """
    return DRAWS[name](Stream(seed, name, severity, index), images, constants) if name in DRAWS else ()


class Stream:
    """The draws of some images of one corruption at one severity. Use each method once: a second call draws alike."""

    def __init__(self, seed: int, name: str, severity: int, index: np.ndarray):
        self.key = _key(f"{seed}/{name}/{severity}")
        self.index = index

    def bits(self, count: int) -> Bits:
        """Random 32-bit integers, (N, count): image i has Philox's blocks from i * blocks on, low halves first."""
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
        """Standard normal, (N, *shape): by RandomState, from counters that `bits` does not reach."""
        random = np.random.RandomState(np.random.Philox(key=self.key))
        state: Any = random.get_state(legacy=False)
        result = np.empty((len(self.index), *shape))
        for number, target in zip(self.index.tolist(), result, strict=True):
            state["state"]["counter"] = np.array([0, number % (1 << 64), 0, 1], np.uint64)
            random.set_state(state)
            target[...] = random.standard_normal(shape)
        return result


def uniform(bits: Bits, low: float, high: float) -> Floats:
    """The middle of one of 2**32 equal parts of low..high."""
    values: Floats = (bits + np.float64(0.5)) * ((high - low) / 2**32) + low
    return values


def below(bits: Bits, limit: Any) -> NDArray[np.int64]:
    """Integers in 0..limit-1, limit (broadcast) far below 2**32."""
    if isinstance(limit, int) and limit.bit_count() == 1 and limit > 1:
        return (bits >> np.uint32(33 - limit.bit_length())).astype(np.int64)
    return ((bits * np.asarray(limit).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def bits(seed: int, name: str, severity: int, index: int) -> np.random.Philox:
    """For code that draws image by image."""
    return np.random.Philox(key=_key(f"{seed}/{name}/{severity}/{index}"))


def generator(seed: int, name: str, severity: int, index: int) -> np.random.RandomState:
    return np.random.RandomState(bits(seed, name, severity, index))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


# The draws of each corruption, in the order of its function's arguments.


def _one_each(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (stream.bits(images[0].size if len(images) else 0).reshape(images.shape),)


def _glass_blur(stream: Stream, images: Bytes, constants: tuple[float, int, int]) -> Draws:
    _, distance, passes = constants
    side = images.shape[1] - 2 * distance
    shape = (len(images), passes, side, side, 2)
    return (below(stream.bits(passes * side * side * 2).reshape(shape), 2 * distance) - distance,)


def _motion_blur(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (uniform(stream.bits(1)[:, 0], -45, 45),)


def _fog(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (uniform(stream.bits(fog_side(images.shape[1]) ** 2 - 1), -1, 1),)


def _snow(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return stream.normals(*images.shape[1:3]), uniform(stream.bits(1)[:, 0], -135, -45)


def _frost(stream: Stream, images: Bytes, constants: tuple[float, float, float]) -> Draws:
    size = images.shape[1]
    known = textures(constants[2], size)
    random = stream.bits(3)
    number = below(random[:, :1], len(known))
    room = np.array([texture.shape[:2] for texture in known]) - size
    return (np.concatenate([number, below(random[:, 1:], room[number[:, 0]])], axis=1),)


def _spatter(stream: Stream, images: Bytes, constants: Any) -> Draws:
    return (stream.normals(*images.shape[1:3]),)


def _elastic_transform(stream: Stream, images: Bytes, constants: tuple[float, float, float]) -> Draws:
    count, size = images.shape[:2]
    reach = constants[2] * size
    random = stream.bits(2 * size * size + 6)
    moves = uniform(random[:, -6:], -reach, reach).reshape(count, 3, 2)
    across, down = uniform(random[:, :-6], -1, 1).reshape(count, 2, size, size).swapaxes(0, 1)
    return moves.astype(np.float32), across, down


DRAWS: dict[str, Callable[[Stream, Bytes, Any], Draws]] = {
    "gaussian_noise": _one_each,
    "shot_noise": _one_each,
    "impulse_noise": _one_each,
    "speckle_noise": _one_each,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "fog": _fog,
    "snow": _snow,
    "frost": _frost,
    "spatter": _spatter,
    "elastic_transform": _elastic_transform,
}
