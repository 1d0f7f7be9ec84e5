"""The random numbers of the corruptions: their keys, their distributions, and that no two are alike."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from normbench.corruptions import corrupt, registry
from normbench.corruptions.constants import BENCHMARK
from normbench.corruptions.draws import Stream, generator, one_each
from normbench.corruptions.frost import textures

RANDOM = [name for name in BENCHMARK if registry.get(name).draws is not None]
EACH = [name for name in BENCHMARK if registry.get(name).draws is one_each]


def test_the_index_counts_from_zero(images: np.ndarray) -> None:
    np.testing.assert_array_equal(
        corrupt(images, "shot_noise", 2), corrupt(images, "shot_noise", 2, index=np.arange(len(images)))
    )


@pytest.mark.parametrize("name", RANDOM)
def test_draws_differ(name: str, images: np.ndarray) -> None:
    """Between seeds, indices and severities; the constants stay, so that only the draws can differ."""
    found = registry.get(name)
    constants = found.constants["cifar"][4]
    image = images[:1]
    keys = [(0, 5, 0), (1, 5, 0), (0, 4, 0), (0, 5, 1), (5, 0, 0)]
    made = [found.draw(image, constants, seed, severity, np.array([index])) for seed, severity, index in keys]
    for one, other in itertools.combinations(made, 2):
        assert not any(np.array_equal(first, second) for first, second in zip(one, other, strict=True))
    assert not any(np.array_equal(first, second) for first, second in itertools.combinations(made[0], 2))
    again = found.draw(image, constants, 0, 5, np.array([0]))
    assert all(np.array_equal(first, second) for first, second in zip(made[0], again, strict=True))


def test_corruptions_have_draws_of_their_own() -> None:
    assert generator(0, "gaussian_noise", 1, 0).random_sample() != generator(0, "speckle_noise", 1, 0).random_sample()
    first, second = (Stream(0, name, 1, np.arange(2)).bits(8) for name in ("gaussian_noise", "speckle_noise"))
    assert not (first == second).any()


def test_the_draws_are_pinned() -> None:
    """The keys and counters as documented, and the distributions of numpy 1.26: they must not change with a release."""
    key = int.from_bytes(hashlib.blake2b(b"2/fog/3", digest_size=16).digest(), "little")
    stream = Stream(2, "fog", 3, np.array([41, 42, 7, -1]))
    found = stream.bits(11)  # two blocks of eight
    for number, row in zip((41, 42, 7, 2**64 - 1), found, strict=True):
        words = np.random.Philox(key=key, counter=2 * number).random_raw(8).astype("<u8").view("<u4")
        np.testing.assert_array_equal(row, words[:11])
    normals = stream.normals(3, 1)
    for number, row in zip((41, 42, 7, 2**64 - 1), normals, strict=True):
        random = np.random.RandomState(np.random.Philox(key=key, counter=(number << 64) + (1 << 192)))
        np.testing.assert_array_equal(row, random.standard_normal((3, 1)))
    assert found[0, :3].tolist() == [2668854760, 3758794245, 1336811336]
    assert normals[0, :, 0].tolist() == pytest.approx([0.10029868360878241, 1.073088800076831, -0.2790644924779858])


def test_draws_have_their_distributions() -> None:
    """On 64 images of one grey, to five standard errors."""
    grey = np.full((64, 32, 32, 3), 128, np.uint8)

    def made(name: str, severity: int) -> tuple[np.ndarray, ...]:
        found = registry.get(name)
        return found.draw(grey, found.constants["cifar"][severity - 1], 0, severity, np.arange(64))

    spans = [(bits / 2**32, (0, 1)) for name in EACH for bits in made(name, 1)]
    spans += [(made("fog", 1)[0], (-1, 1)), (made("motion_blur", 1)[0], (-45, 45)), (made("snow", 1)[1], (-135, -45))]
    moves, across, down = made("elastic_transform", 1)
    spans += [(moves, (-2.56, 2.56)), (across, (-1, 1)), (down, (-1, 1))]
    for values, (low, high) in spans:
        uniforms = (values.astype(np.float64) - low) / (high - low)
        assert uniforms.min() >= 0
        assert uniforms.max() <= 1
        assert abs(uniforms.mean() - 0.5) < 5 * (1 / 12 / uniforms.size) ** 0.5
        assert abs(uniforms.std() - 12**-0.5) < 5 * 0.13 / uniforms.size**0.5
    for normals in (made("snow", 1)[0], made("spatter", 1)[0]):
        assert normals.shape == (64, 32, 32)
        assert abs(normals.mean()) < 5 / normals.size**0.5
        assert abs(normals.var() - 1) < 5 * (2 / normals.size) ** 0.5
    (crops,) = made("frost", 1)
    known = textures(0.2, 32, 32)
    assert [texture.shape[:2] for texture in known] == [(120, 180), (63, 112), (63, 112), (70, 105), (99, 132)]
    assert set(crops[:, 0]) == set(range(5))
    room = np.array([known[number].shape[:2] for number in crops[:, 0]]) - 32
    assert (crops[:, 1:] >= 0).all()
    assert (crops[:, 1:] < room).all()
    assert abs(((crops[:, 1:] + 0.5) / room).mean() - 0.5) < 5 * (1 / 12 / 128) ** 0.5
    (offsets,) = made("glass_blur", 4)
    assert offsets.shape == (64, 2, 30, 30, 2)
    assert set(np.unique(offsets)) == {-1, 0}
    assert abs(offsets.mean() + 0.5) < 5 * 0.5 / offsets.size**0.5
