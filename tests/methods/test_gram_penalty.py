"""The Gram penalty against singular values of dense symbols, one at a time, and bounds of whole operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.gram_penalty import GramPenalty
from normbench.spectral import exact_norm, polyphase
from tests.oracles.layers import relative_error
from tests.oracles.operators import singular_values, spread


def network(*kernels: tuple[int, int, int, int], stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Conv2d(i, o, (h, w), stride, bias=False) for o, i, h, w in kernels]).double()


def schatten(kernel: Tensor, points: int, n_iter: int) -> Tensor:
    """The largest Schatten norm of order 2^(n_iter + 1) over a full grid, by singular values, over the two cosines."""
    height, width = kernel.shape[2:]
    down, across = (1 if taps == 1 else points for taps in (height, width))
    best = torch.zeros((), dtype=torch.float64)
    for s in range(down):
        for t in range(across):
            symbol = torch.zeros(kernel.shape[:2], dtype=torch.complex128)
            for p in range(height):
                for q in range(width):
                    turn = 2 * math.pi * (s * p / down + t * q / across)
                    symbol = symbol + kernel[:, :, p, q] * complex(math.cos(turn), math.sin(turn))
            values = torch.linalg.svdvals(symbol)
            largest = values[0] * (values / values[0]).pow(2 ** (n_iter + 1)).sum().pow(0.5 ** (n_iter + 1))
            best = torch.maximum(best, largest)
    cosines = [math.cos(math.pi * (taps - 1) / 2 / at) for taps, at in ((height, down), (width, across))]
    return best / math.prod(cosines)


KERNELS = [(4, 3, 3, 3), (3, 5, 3, 3), (6, 2, 1, 1), (2, 4, 1, 3), (1, 1, 3, 3), (4, 3, 3, 3)]


@pytest.mark.parametrize("n_iter", [1, 2, 6])
def test_bounds_and_their_gradients(n_iter: int) -> None:
    """Kernels of different shapes at once, tall and wide, with the same lesser number of channels or not."""
    model = network(*KERNELS)
    penalty = GramPenalty(coefficient=0.5, threshold=0.0, n_iter=n_iter).penalty(model)
    expected = 0.5 * sum(schatten(layer.weight, 8, n_iter) for layer in model)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = list(model.parameters())
    for found, gradient in zip(*(torch.autograd.grad(x, weights) for x in (penalty, expected)), strict=True):
        assert relative_error(found, gradient) <= 1e-10


def test_a_large_number_of_iterations_does_not_leave_the_range_of_float32() -> None:
    """The order of the Schatten norm is 2^11 here, whatever the scale of the weights."""
    model = network((48, 48, 3, 3)).float()
    method = GramPenalty(coefficient=1.0, threshold=0.0, n_iter=10)
    bound = method.penalty(model).item()
    for scale in (1e-8, 1e8):
        with torch.no_grad():
            model[0].weight.mul_(scale)
        penalty = method.penalty(model)
        assert penalty.item() == pytest.approx(bound * scale, rel=1e-2)
        (gradient,) = torch.autograd.grad(penalty, list(model.parameters()))
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
        with torch.no_grad():
            model[0].weight.div_(scale)


@pytest.mark.parametrize("scale", [1e-12, 1e-25, 1e-44])
def test_tiny_kernels_have_a_bound_of_zero_and_no_nan(scale: float) -> None:
    model = network((48, 48, 3, 3), (3, 4, 1, 1)).float()
    with torch.no_grad():
        model[0].weight.mul_(scale)
    penalty = GramPenalty(coefficient=1.0, threshold=0.0).penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(schatten(model[1].weight, 8, 6).item(), rel=1e-4)
    assert (model[0].weight.grad == 0).all()


def test_only_bounds_above_the_threshold_count() -> None:
    """With their whole value, as in the authors' code, and not with what is above the threshold."""
    model = network((4, 4, 3, 3), (4, 4, 3, 3))
    with torch.no_grad():
        model[1].weight.mul_(5)
    low, high = (schatten(layer.weight, 8, 6).item() for layer in model)
    assert low < 3 < high
    penalty = GramPenalty(coefficient=1.0, threshold=3.0).penalty(model)
    assert penalty.item() == pytest.approx(high, rel=1e-12)
    penalty.backward()
    assert (model[0].weight.grad == 0).all()
    assert model[1].weight.grad.abs().max() > 0
    assert GramPenalty(threshold=math.ceil(high)).penalty(model).item() == 0


def test_a_kernel_that_vanishes_at_a_frequency() -> None:
    """[1, 0, -1] is zero at frequency 0: the authors' code divides by zero there, and its bound is NaN."""
    model = network((1, 1, 1, 3), (3, 3, 3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0, -1.0]))
        model[1].weight.zero_()
    penalty = GramPenalty(coefficient=1.0).penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(2 / math.cos(math.pi / 8), rel=1e-12)
    assert all(layer.weight.grad.isfinite().all() for layer in model)


@pytest.mark.parametrize("points", [1, 8, 16])
def test_it_bounds_convolutions_of_every_size_and_padding(points: int) -> None:
    model = network((4, 3, 3, 3))
    bound = GramPenalty(coefficient=1.0, threshold=0.0, points=points).penalty(model).item()
    weight = model[0].weight.detach()
    for size in (4, 5, 8, 11):
        assert exact_norm(weight, size).item() <= bound
    basis = torch.eye(3 * 36, dtype=torch.float64).view(-1, 3, 6, 6)
    for stride, padding in ((1, 1), (1, 2), (2, 1)):
        dense = nn.functional.conv2d(basis, weight, stride=stride, padding=padding).flatten(1)
        assert np.linalg.norm(dense.numpy(), 2) <= bound
    assert bound <= exact_norm(weight, 64).item() * {1: 1.4, 8: 1.2, 16: 1.06}[points]


def test_a_grouped_convolution_has_the_largest_bound_of_its_groups() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 9, 3, groups=3, bias=False), nn.Conv2d(2, 2, 3, bias=False)).double()
    groups = [schatten(part, 8, 6) for part in model[0].weight.chunk(3)]
    expected = max(groups) + schatten(model[1].weight, 8, 6)
    penalty = GramPenalty(coefficient=1.0, threshold=0.0).penalty(model)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, wanted in zip(
        *(torch.autograd.grad(x, list(model.parameters())) for x in (penalty, expected)), strict=True
    ):
        assert relative_error(found, wanted) <= 1e-10


def test_phases_of_a_dilated_convolution_are_not_taken() -> None:
    """The penalty then ignores the stride, which leaves a bound: of a dilated kernel, and of its singular values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 2, dilation=2, bias=False)).double()
    found = [
        GramPenalty(coefficient=1.0, threshold=0.0, polyphase=each).penalty(model).item() for each in (True, False)
    ]
    assert found[0] == found[1]
    whole = spread(model[0].weight.detach(), 2)
    norm = singular_values(lambda x: functional.conv2d(x, whole, stride=2, padding=2), (3, 8, 8))[0].item()
    assert norm <= found[0]


def test_a_strided_convolution_by_its_phases() -> None:
    model = network((4, 3, 3, 3), stride=2)
    method = GramPenalty(coefficient=1.0, threshold=0.0, polyphase=True)
    expected = schatten(polyphase(model[0].weight, 2), 8, 6)
    penalty = method.penalty(model)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, wanted in zip(
        *(torch.autograd.grad(x, list(model.parameters())) for x in (penalty, expected)), strict=True
    ):
        assert relative_error(found, wanted) <= 1e-10
    assert penalty.item() < GramPenalty(coefficient=1.0, threshold=0.0).penalty(model).item()


def test_no_convolution_no_penalty() -> None:
    assert GramPenalty().penalty(nn.Sequential(nn.Linear(3, 2))) is None


def test_the_penalty_lowers_the_norm() -> None:
    model = network((4, 3, 3, 3))
    method = GramPenalty(coefficient=1.0, threshold=0.0)
    before = exact_norm(model[0].weight, 16).item()
    for _ in range(30):
        (gradient,) = torch.autograd.grad(method.penalty(model), list(model.parameters()))
        with torch.no_grad():
            model[0].weight.sub_(gradient, alpha=0.01)
    assert exact_norm(model[0].weight, 16).item() < 0.9 * before
