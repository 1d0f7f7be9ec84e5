"""FID-infinity and the bootstrap, against what repeated draws from distributions of known distance give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normbench.gan.scores.frechet import Reference
from normbench.gan.scores.moments import Moments, growing
from normbench.gan.scores.sampling import (
    at_infinity,
    deviation,
    fewest,
    resampled,
    sizes,
    stretch,
    weights,
)

DIMENSIONS = 6
TRUE = DIMENSIONS * (1.3 - 1) ** 2 + 0.25 * DIMENSIONS  # of deviations of 1 and 1.3, and means 0.5 apart
REFERENCE = Reference(
    Moments(10**6, torch.zeros(DIMENSIONS).double(), torch.eye(DIMENSIONS).double() * (10**6 - 1)),
)


def drawn(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.3 * torch.randn(count, DIMENSIONS, generator=generator, dtype=torch.float64) + 0.5


def line(features: Tensor) -> tuple[list[float], list[int]]:
    numbers = sizes(len(features), DIMENSIONS)
    return [REFERENCE.distance(each) for each in growing(features.split(50), numbers)], numbers


def test_a_line_over_one_over_n_gives_its_value_at_infinity() -> None:
    numbers = [100, 150, 333, 1000]
    assert at_infinity([7 + 250 / n for n in numbers], numbers) == pytest.approx(7)
    noise = np.random.default_rng(0).normal(size=4)
    fitted = np.polyfit(1 / np.array(numbers), noise, 1)[1]
    assert at_infinity(noise.tolist(), numbers) == pytest.approx(fitted)
    assert weights(numbers).sum().item() == pytest.approx(1)


def test_the_numbers_of_images_for_the_line() -> None:
    found = sizes(50_000, 2048)
    assert (len(found), found[0], found[-1]) == (15, 5000, 50_000)
    np.testing.assert_allclose(found, np.linspace(5000, 50_000, 15), atol=0.5)
    assert sizes(10_000, 2048)[0] == 4096
    assert sizes(fewest(64), 64)[0] == 128
    assert sizes(fewest(64) - 1, 64) == []


def test_it_has_no_bias_where_the_distance_has() -> None:
    many = [line(drawn(150, seed))[0] for seed in range(300)]
    numbers = line(drawn(150, 0))[1]
    plain, infinite = np.array([each[-1] for each in many]), np.array([at_infinity(each, numbers) for each in many])
    assert plain.mean() - TRUE > 5 * plain.std() / np.sqrt(300)
    assert abs(infinite.mean() - TRUE) < 3 * infinite.std() / np.sqrt(300)
    # and the spread of both is as said
    assert infinite.std() / plain.std() == pytest.approx(stretch(numbers), rel=0.1)


def test_the_bootstrap_has_the_spread_of_repeated_draws() -> None:
    many = [REFERENCE.distance(Moments.of(drawn(300, seed))) for seed in range(300)]
    found = [deviation(resampled(drawn(300, seed), REFERENCE, 50, seed), 300, 300) for seed in range(10)]
    assert np.mean(found) == pytest.approx(np.std(many), rel=0.15)
    assert deviation(torch.tensor([1.0, 3.0]), 150, 600) == pytest.approx(np.sqrt(2) / 2)  # of four times as many


def test_a_bootstrap_sample_is_the_distance_of_the_drawn_images() -> None:
    features = drawn(40, 0)
    found = resampled(features, REFERENCE, 3, 7)
    generator = torch.Generator().manual_seed(7)
    for value in found:
        chosen = features[torch.randint(40, (40,), generator=generator)]
        assert value.item() == pytest.approx(REFERENCE.distance(Moments.of(chosen)), rel=1e-9)


def test_a_line_of_few_numbers_spreads_as_its_images() -> None:
    """Of linear contributions, the value at infinity is a weighted sum of them."""
    numbers = [2, 3, 6]
    each = weights(numbers)
    of_image = [sum((each[k] / n).item() for k, n in enumerate(numbers) if n > place) for place in range(6)]
    assert stretch(numbers) == pytest.approx(np.sqrt(6 * np.square(of_image).sum()))
