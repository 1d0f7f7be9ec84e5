"""TF32 switched on: what it may not round loses no digit, on a CPU. `tests/gpu/test_traces.py` has what a GPU rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.functional import circular_filter, inverse_sqrt, patch_moments
from normbench.methods import registry
from normbench.methods.base import ConvSpec, Role
from normbench.spectral import conv_bound, exact_norm, fantastic_four
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.short_models import short_classifier
from tests.support.tf32 import Rounded, tf32, tf32_on_cuda

REASON = obstacle()
on_a_gpu = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@on_a_gpu
def test_a_product_by_torch_is_found() -> None:
    """As `tests/gpu/test_traces.py` looks for them in all networks."""
    with fake_cuda(), tf32_on_cuda():
        x = torch.zeros(3, 3, device="cuda")
        with Rounded() as done:
            x.double() @ x.double()
            x.bfloat16() @ x.bfloat16()
            x @ x
    assert len(done.places) == 1


# The same on a CPU, with numbers. The switch is that of the CPU's backend.

NEAR = 1e-5


def relative(found: Tensor, other: Tensor) -> float:
    return float((found.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30))


def near_float32(function: Callable[..., Any], *given: Any) -> list[Tensor]:
    """The tensors that a function returns while TF32 is emulated, which must be those that it returns without."""
    plain = function(*given)
    with tf32():
        found = function(*given)
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == torch.float32
        assert relative(one, other) < NEAR
    return found


def is_lost_by_torch(function: Callable[..., Tensor], *given: Any) -> None:
    """A formula, by torch's own products, is off by much more, so that the numbers of a test can tell."""
    plain = function(*given)
    with tf32() as mode:
        found = function(*given)
    assert mode.count
    assert relative(found, plain) > NEAR


def covariance(features: int) -> Tensor:
    """A covariance with the wide spectrum that those of patches have, (1, features, features)."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(4000, features, generator=generator) @ torch.randn(features, features, generator=generator)
    mixed = mixed * torch.logspace(0, -1.5, features)
    return (mixed.T @ mixed / len(mixed) + 1e-5 * torch.eye(features))[None]


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    """The formula."""
    scale, one = matrix.norm(), torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    y, z = matrix / scale, one
    for _ in range(iterations):
        t = 1.5 * one - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    return z / scale.sqrt()


@pytest.mark.parametrize("iterations", [5, 10, 15])
@pytest.mark.parametrize("way", ["products", "eigenvalues"])
def test_whitening(way: str, iterations: int) -> None:
    """The root, as a GPU and as a CPU computes it, and the gradient of the covariance."""
    matrix, root = covariance(36), getattr(inverse_sqrt, f"by_{way}")
    left, right = torch.randn(2, 1, 20, 36, generator=torch.Generator().manual_seed(1))

    def root_and_gradient(given: Tensor) -> list[Tensor]:
        found, saved = root(given, iterations)
        return [found, inverse_sqrt.twice_gradient(saved, left, right, torch.float32)]

    found, _ = near_float32(root_and_gradient, matrix)
    assert relative(found, newton_schulz(matrix.double(), iterations)) < 2e-2  # that of float32 grows with the steps
    is_lost_by_torch(newton_schulz, matrix, iterations)


@pytest.mark.parametrize("groups", [1, 3])
def test_covariances(groups: int) -> None:
    rows = torch.randn(groups, 3000, 40, generator=torch.Generator().manual_seed(0)) + 1
    sampling = patch_moments.Sampling((1, 1), (1, 1), (0, 0), (1, 1), groups, 40, groups)

    def moments(given: Tensor) -> list[Tensor]:
        centred, mean = sampling.centred_rows(given.transpose(0, 1).reshape(3000, -1, 1, 1))
        return [mean, patch_moments.covariance(centred, 1e-5)]

    mean, found = near_float32(moments, rows)
    centred = rows.double() - rows.double().mean(1, keepdim=True)
    exact = centred.mT @ centred / 3000 + 1e-5 * torch.eye(40)
    assert relative(found, exact) < NEAR
    assert relative(mean[:, 0], rows.double().mean(1)) < NEAR
    is_lost_by_torch(lambda given: given.mT @ given / 3000, (rows - mean))


def test_symbols() -> None:
    weight = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    (found,) = near_float32(lambda given: [circular_filter.inverse_spectrum_norm(given, 10, 12)], weight)
    spectrum = torch.fft.fft2(weight.double(), s=(10, 12))
    assert relative(found, spectrum.abs().square().sum(1).rsqrt()) < 10 * NEAR
    near_float32(circular_filter.filter_of, weight, 10, 12, torch.float32)

    def autocorrelation(given: Tensor) -> Tensor:
        return given.flatten(2).mT @ given.flatten(2)

    is_lost_by_torch(autocorrelation, weight)


def stepped(layer: nn.Module, x: Tensor, steps: int) -> list[Tensor]:
    """The state of a layer after forward passes in training mode, on its own."""
    one = copy.deepcopy(layer).train()
    for _ in range(steps):
        one(x)
    return [value for value in one.buffers() if value.is_floating_point()]


@pytest.mark.parametrize("method", ["batch_norm", "network_deconvolution", "spectral_batch_norm", "spectral_norm"])
def test_statistics_of_layers(method: str) -> None:
    """What a layer keeps of its inputs or of its weight: running moments, whitening matrices, singular vectors."""
    torch.manual_seed(0)
    made, role = registry.build(method, {}), Role("body", last_stage=True, last_in_block=True)
    layers = [
        (made.conv(ConvSpec(16, 24, 3, role, padding=1)), torch.randn(8, 16, 9, 9) + 1),
        (made.norm(16, role=role), torch.randn(8, 16, 9, 9) + 1),
        (made.linear(24, 10, role=Role("head")), torch.randn(64, 24) + 1),
    ]
    for layer, x in layers:
        near_float32(stepped, layer, x, 3)


def test_norms() -> None:
    """Those of weights and their gradients: of Spectral Normalization, and the bounds of Fantastic Four."""
    torch.manual_seed(0)
    method = registry.build("fantastic_four", {"layers": "all"})
    network = short_classifier("resnet", method)

    def penalty() -> list[Tensor]:
        one = copy.deepcopy(network)
        for _ in range(3):
            found = method.penalty(one)
        assert found is not None
        kernels = [p for p in one.parameters() if p.dim() > 1]
        return [found.detach(), *torch.autograd.grad(found, kernels)]

    near_float32(penalty)
    layer = registry.build("spectral_norm", {}).conv(ConvSpec(16, 24, 3, Role("body"), padding=1)).train()

    def weight() -> list[Tensor]:
        one = copy.deepcopy(layer)
        for _ in range(3):
            found = one.weight
        (original,) = [p for name, p in one.named_parameters() if "original" in name]
        return [found.detach(), *torch.autograd.grad(found.square().sum(), original)]

    near_float32(weight)
    for function in (fantastic_four, lambda given: exact_norm(given, 8), conv_bound):
        kernel = layer.parametrizations.weight.original.detach()
        with tf32() as mode:
            found = function(kernel)
        assert torch.equal(found, function(kernel)), mode.count
