"""KID: against every pair of images one by one, and against torch-fidelity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from normbench.gan.scores import kernel
from normbench.gan.scores.kernel import kid, subset_size


def features(count: int, shift: float, seed: int, dimensions: int = 6) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) + shift


def pair_by_pair(fake: np.ndarray, real: np.ndarray) -> float:
    """The estimate of Gretton et al. without bias: means over pairs of different images, and over all mixed pairs."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((np.dot(x, y) / len(x) + 1) ** 3)

    within = [np.mean([k(x, y) for x, y in itertools.permutations(each, 2)]) for each in (fake, real)]
    return float(sum(within) - 2 * np.mean([k(x, y) for x, y in itertools.product(fake, real)]))


def test_each_subset_is_the_sum_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = features(30, 0.3, 0), features(23, 0, 1)
    drawn = np.random.RandomState(5)
    expected = []
    for _ in range(4):
        some = [each.double().numpy()[drawn.choice(len(each), 9, replace=False)] for each in (fake, real)]
        expected.append(pair_by_pair(some[0], some[1]))
    for rows in (2000, 7):
        monkeypatch.setattr(kernel, "ROWS", rows)
        mean, std = kid(fake, real, 4, 9, 5)
        assert mean == pytest.approx(np.mean(expected), rel=1e-9)
        assert std == pytest.approx(np.std(expected), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_same_as_torch_fidelity(shift: float) -> None:
    fake, real = features(300, shift, 0).double(), features(400, 0, 1).double()
    found = kid_features_to_metric(fake, real, kid_subsets=20, kid_subset_size=100, rng_seed=2020, verbose=False)
    mean, std = kid(fake, real, 20, 100, 2020)
    assert mean == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-8, abs=1e-12)
    assert std == pytest.approx(found["kernel_inception_distance_std"], rel=1e-8)


def test_it_has_no_bias_and_sees_a_difference() -> None:
    of_same = [kid(features(60, 0, s), features(60, 0, s + 1000), 1, 60, 0)[0] for s in range(200)]
    error = np.std(of_same) / np.sqrt(len(of_same))
    assert abs(np.mean(of_same)) < 3 * error
    assert min(of_same) < 0  # as an estimate without bias is
    assert kid(features(60, 1, 0), features(60, 0, 1000), 1, 60, 0)[0] > 20 * np.std(of_same)


def test_subsets_of_few_images_still_differ() -> None:
    assert [subset_size(1000, *each) for each in ((1000, 5000), (999, 5000), (7, 3))] == [1000, 499, 1]
