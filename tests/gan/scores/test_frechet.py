"""FID: against known distances of normal distributions and scipy's root of a matrix; moments in pieces; refusals."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from normbench.gan.scores.frechet import Reference, frechet, undetermined
from normbench.gan.scores.moments import Moments, growing


def normal(count: int, dimensions: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Correlated features whose variances span three orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    mixing *= torch.logspace(0, -1.5, dimensions, dtype=torch.float64)[:, None]
    drawn = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return scale * drawn @ mixing + torch.arange(dimensions) / dimensions


def known(mean: Tensor, covariance: Tensor, count: int = 1000) -> Moments:
    return Moments(count, mean, covariance * (count - 1))


def by_sqrtm(one: Tensor, other: Tensor) -> float:
    """The distance by the root of the product of the covariances, which is not symmetric."""
    a, b = (np.cov(each.numpy().T) for each in (one, other))
    root = linalg.sqrtm(a @ b)
    gap = one.mean(0) - other.mean(0)
    return float(gap.square().sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def test_distances_that_are_known() -> None:
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    assert frechet(known(zero, eye), known(zero + 2, eye)) == pytest.approx(12)
    assert frechet(known(zero, 4 * eye), known(zero, 25 * eye)) == pytest.approx(3 * (5 - 2) ** 2)
    # Of commuting covariances: the sum of the squared differences of the deviations.
    turn = torch.linalg.qr(normal(3, 3)).Q
    one, other = (turn @ torch.diag(torch.tensor(v, dtype=torch.float64)) @ turn.T for v in ([1, 4, 9], [16, 25, 0]))
    assert frechet(known(zero, one), known(zero, other)) == pytest.approx((4 - 1) ** 2 + (5 - 2) ** 2 + (0 - 3) ** 2)


@pytest.mark.parametrize("dimensions", [2, 17, 256])
def test_the_same_as_by_the_root_of_the_product(dimensions: int) -> None:
    one, other = normal(700, dimensions), normal(900, dimensions, 1, 1.2)
    found = frechet(Moments.of(one), Moments.of(other))
    assert found == pytest.approx(by_sqrtm(one, other), rel=1e-6)
    assert found == pytest.approx(frechet(Moments.of(other), Moments.of(one)), rel=1e-9)


@pytest.mark.slow
def test_the_dimensions_of_inception() -> None:
    """If B = T A T with a symmetric T, then T is the optimal transport, and the distance is tr (1 - T) A (1 - T)."""
    dimensions = 2048
    covariance = Moments.of(normal(dimensions + 500, dimensions)).covariance
    transport = torch.eye(dimensions, dtype=torch.float64) + Moments.of(normal(3000, dimensions, 1, 0.5)).covariance
    moved = transport @ covariance @ transport
    zero = torch.zeros(dimensions, dtype=torch.float64)
    expected = (covariance.trace() + moved.trace() - 2 * (transport * covariance).sum()).item()
    assert frechet(known(zero, covariance), known(zero, (moved + moved.T) / 2)) == pytest.approx(expected, rel=1e-6)


def test_the_distance_to_itself_is_zero_and_never_less() -> None:
    for seed in range(5):
        moments = Moments.of(normal(100, 20, seed))
        assert 0 <= frechet(moments, moments) < 1e-9 * moments.covariance.trace().item()


def test_moments_in_pieces_are_those_of_all() -> None:
    features = normal(1000, 9) + 1e4  # a mean that is large against the spread
    for batch in (1, 7, 300, 5000):
        *_, found = growing(features.split(batch))
        assert found.count == 1000
        np.testing.assert_allclose(found.mean, features.numpy().mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(features.numpy().T), rtol=1e-8, atol=1e-10)


def test_moments_of_float32_are_summed_in_float64() -> None:
    features = normal(5000, 4).float() + 100
    found = Moments.of(features)
    assert found.scatter.dtype == torch.float64
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T), rtol=1e-10)


def test_moments_of_the_first() -> None:
    features = normal(50, 3)
    found = list(growing(features.split(8), [5, 16, 17, 50]))
    assert [each.count for each in found] == [5, 16, 17, 50]
    for each in found:
        np.testing.assert_allclose(each.covariance, np.cov(features[: each.count].numpy().T), rtol=1e-10, atol=1e-12)
    assert [each.count for each in growing(features.split(8), [5, 60])] == [5, 50]


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """Only one piece and the moments are alive at a time."""
    alive: list[int] = []

    def pieces(count: int) -> Iterator[Tensor]:
        seen: list[weakref.ref[Tensor]] = []
        for seed in range(count):
            alive.append(sum(reference() is not None for reference in seen))
            piece = normal(10, 3, seed)
            seen.append(weakref.ref(piece))
            yield piece
            del piece

    list(growing(pieces(20)))
    assert max(alive) <= 1


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (normal(1, 4), "1 real image cannot determine the covariance of 4 features, which needs 5 or more"),
        (normal(2, 4), "2 real images cannot determine the covariance of 4 features, which needs 5 or more"),
        (normal(4, 4), "4 real images cannot determine the covariance of 4 features, which needs 5 or more"),
        (normal(5, 4), ""),
        (torch.full((9, 4), 3.7), "the 9 real images all have the same features"),
        (torch.zeros(9, 4), "the 9 real images all have the same features"),
        (torch.full((9, 4), math.nan), "the features of the 9 real images are not all finite"),
    ],
)
def test_features_that_determine_no_distance(features: Tensor, reason: str) -> None:
    assert undetermined(Moments.of(features), "real") == reason


def test_the_root_is_computed_once() -> None:
    reference = Reference(Moments.of(normal(100, 8)))
    assert reference.root is reference.root
    np.testing.assert_allclose(reference.root @ reference.root.T, reference.moments.covariance, atol=1e-10)
