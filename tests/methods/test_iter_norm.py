"""Iterative Normalization against the paper's iteration, written as it is there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normbench.functional.group_whitening import group_size, whitening
from normbench.functional.inverse_sqrt import inverse_sqrt
from normbench.methods.iter_norm import IterNorm2d
from tests.oracles.layers import newton
from tests.support.norms import follows, images, ready, step

EPS = 1e-5


def formula(layer: IterNorm2d, x: Tensor) -> Tensor:
    parts = []
    for index, group in enumerate(x.split(layer.size, 1)):
        values = group.transpose(0, 1).flatten(1)  # (size, N * H * W)
        if layer.training:
            mean = values.mean(1, keepdim=True)
            centred = values - mean
            covariance = torch.cov(values, correction=0).view(layer.size, layer.size)
            root = newton(covariance + EPS * torch.eye(layer.size, dtype=x.dtype), layer.iterations)
        else:
            centred, root = values - layer.running_mean[index].T, layer.running_whitening[index]
        parts.append((root @ centred).view(layer.size, len(x), *x.shape[2:]).transpose(0, 1))
    return torch.cat(parts, 1) * layer.weight[:, None, None] + layer.bias[:, None, None]


@pytest.mark.parametrize(("size", "iterations"), [(8, 5), (4, 5), (1, 5), (2, 1), (2, 2)])
def test_formula(size: int, iterations: int) -> None:
    layer = ready(IterNorm2d(8, size, iterations, EPS, 0.1))
    for x in (images(), images(seed=1), images().contiguous(memory_format=torch.channels_last)):
        assert follows(layer, formula, x)
    assert follows(layer.eval(), formula, images(1))


def test_running_statistics_of_several_groups() -> None:
    """The whitening matrix itself is averaged; the public code's buffer is one memory for all groups, an error now."""
    layer, x = IterNorm2d(8, 4, 5, EPS, 0.1).double(), images()
    layer(x)
    for index, group in enumerate(x.split(4, 1)):
        values = group.transpose(0, 1).flatten(1)
        root = newton(torch.cov(values, correction=0) + EPS * torch.eye(4, dtype=x.dtype), 5)
        expected = 0.9 * torch.eye(4, dtype=x.dtype) + 0.1 * root
        assert torch.allclose(layer.running_whitening[index], expected, rtol=1e-10, atol=1e-12)
        assert torch.allclose(layer.running_mean[index, 0], 0.1 * values.mean(1), rtol=1e-10)
    shared = torch.eye(4).expand(2, 4, 4)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        shared.copy_(torch.zeros(2, 4, 4))


def test_the_trace_is_not_the_frobenius_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T
    assert torch.allclose(whitening(matrix[None], 5)[0], newton(matrix, 5), rtol=1e-11)
    assert not torch.allclose(inverse_sqrt(matrix, 5), newton(matrix, 5), rtol=0.05)


@pytest.mark.parametrize("values", [1, 2, 3])
def test_fewer_values_than_channels(values: int) -> None:
    """So that the covariance has not full rank, and the number beside it in its square root is almost zero."""
    layer, x = ready(IterNorm2d(8, 8, 5, EPS, 0.1)), 100 * images(values, size=(1, 1))
    found = step(layer.float(), x.float(), list(layer.parameters()))
    assert all(each.isfinite().all() for each in found)
    if values > 1:
        assert follows(layer.double(), formula, x, 1e-7)


def test_whitened_only_as_far_as_there_are_values() -> None:
    """With 16 values of 256 channels the mean variance is far from 1 (0.056 in the public code)."""
    generator = torch.Generator().manual_seed(0)
    many, few = (torch.randn(count, 256, 1, 1, generator=generator, dtype=torch.float64) for count in (4096, 16))
    variances = [IterNorm2d(256, 256, 9, EPS, 0.1).double()(x).var((0, 2, 3), correction=0).mean() for x in (many, few)]
    assert 0.9 < variances[0] < 1.01
    assert variances[1] < 0.07


def test_group_sizes() -> None:
    assert [group_size(channels, 64) for channels in (3, 16, 64, 96, 128, 129)] == [3, 16, 64, 48, 64, 43]
