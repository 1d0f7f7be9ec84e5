"""The random draws of the corruptions: one generator per image, whose key is (seed, corruption, severity, index).

So what an image becomes does not depend on the images beside it, on the size of a batch or on the number of workers.
`RandomState` is used because its distributions are frozen: another release of numpy gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from normbench.corruptions.frost import textures
from normbench.corruptions.operators import Bytes
from normbench.corruptions.weather import fog_side

Draws = tuple[np.ndarray, ...]


def draw(name: str, images: Bytes, constants: Any, seed: int, severity: int, index: np.ndarray) -> Draws:
    """What the function of the corruption `name` takes after its constants: arrays with the images on axis 0.

    `images` uint8 (N, H, W, C), `index` (N,) integers; empty for a corruption that draws nothing.
    """
    if name not in DRAWS:
        return ()
    each = [
        DRAWS[name](generator(seed, name, severity, number), image, constants)
        for number, image in zip(index.tolist(), images, strict=True)
    ]
    return tuple(np.stack(arrays) for arrays in zip(*each, strict=True))


def bits(seed: int, name: str, severity: int, index: int) -> np.random.Philox:
    key = hashlib.blake2b(f"{seed}/{name}/{severity}/{index}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little"))


def generator(seed: int, name: str, severity: int, index: int) -> np.random.RandomState:
    return np.random.RandomState(bits(seed, name, severity, index))


# One image's draws, in the order in which the corruption uses them. `image` is (H, W, C).


def _normals(random: np.random.RandomState, image: Bytes, constants: Any) -> Draws:
    return (random.standard_normal(image.shape),)


def _shot_noise(random: np.random.RandomState, image: Bytes, photons: float) -> Draws:
    return (random.poisson(image / np.float64(255) * photons),)


def _impulse_noise(random: np.random.RandomState, image: Bytes, probability: float) -> Draws:
    return random.random_sample(image.shape), random.random_sample(image.shape)


def _glass_blur(random: np.random.RandomState, image: Bytes, constants: tuple[float, int, int]) -> Draws:
    _, distance, passes = constants
    size = (passes, image.shape[0] - 2 * distance, image.shape[1] - 2 * distance, 2)
    return (random.randint(-distance, distance, size, dtype=np.int64),)


def _motion_blur(random: np.random.RandomState, image: Bytes, constants: Any) -> Draws:
    return (np.array(random.uniform(-45, 45)),)


def _fog(random: np.random.RandomState, image: Bytes, constants: Any) -> Draws:
    return (random.uniform(-1, 1, fog_side(len(image)) ** 2 - 1),)


def _snow(random: np.random.RandomState, image: Bytes, constants: Any) -> Draws:
    return random.standard_normal(image.shape[:2]), np.array(random.uniform(-135, -45))


def _frost(random: np.random.RandomState, image: Bytes, constants: tuple[float, float, float]) -> Draws:
    size = len(image)
    known = textures(constants[2], size)
    number = random.randint(len(known), dtype=np.int64)
    height, width = known[number].shape[:2]
    crop = [number, *(random.randint(side - size, dtype=np.int64) for side in (height, width))]
    return (np.array(crop, np.int64),)


def _spatter(random: np.random.RandomState, image: Bytes, constants: Any) -> Draws:
    return (random.standard_normal(image.shape[:2]),)


def _elastic_transform(random: np.random.RandomState, image: Bytes, constants: tuple[float, float, float]) -> Draws:
    reach = constants[2] * len(image)
    moves = random.uniform(-reach, reach, (3, 2)) if reach else np.zeros((3, 2))
    return moves.astype(np.float32), random.uniform(-1, 1, image.shape[:2]), random.uniform(-1, 1, image.shape[:2])


DRAWS: dict[str, Callable[[np.random.RandomState, Bytes, Any], Draws]] = {
    "gaussian_noise": _normals,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _normals,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "fog": _fog,
    "snow": _snow,
    "frost": _frost,
    "spatter": _spatter,
    "elastic_transform": _elastic_transform,
}
