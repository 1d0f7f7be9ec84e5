"""OCNN against torch's convolution of a kernel with itself, the dense operator, and the authors' choice of layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import ConvSpec, Role
from normbench.methods.ocnn import OCNN, PenalizedConv2d
from normbench.models.build import build_classifier
from tests.oracles.layers import relative_error
from tests.oracles.operators import spread


def layer(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    made = OCNN(layers="all").conv(ConvSpec(inputs, outputs, size, Role("body"), stride, size // 2, groups))
    assert type(made) is PenalizedConv2d
    return nn.Sequential(made).double()


def self_convolution(weight: Tensor, stride: int, padding: int) -> Tensor:
    """What conv2d(K, K) misses its target by, as in the authors' code."""
    found = functional.conv2d(weight, weight, stride=stride, padding=padding)
    target, middle = torch.zeros_like(found), found.shape[-1] // 2
    target[:, :, middle, middle] = torch.eye(len(weight))
    return found - target


def compare(model: nn.Module, penalty: Tensor, expected: Tensor) -> None:
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = list(model.parameters())
    for found, gradient in zip(*(torch.autograd.grad(x, weights) for x in (penalty, expected)), strict=True):
        assert relative_error(found, gradient) <= 1e-11


@pytest.mark.parametrize("padding", ["full", "released"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 1), (4, 2), (4, 3), (5, 1), (5, 2)])
def test_self_convolution(size: int, stride: int, padding: str) -> None:
    model = layer(3, 4, size, stride)
    width = (size - 1) // stride * stride if padding == "full" else 1
    expected = 0.5 * self_convolution(model[0].weight, stride, width).norm()
    compare(model, OCNN(coefficient=0.5, padding=padding).penalty(model), expected)


@pytest.mark.parametrize("dilation", [2, 3])
def test_a_dilated_kernel(dilation: int) -> None:
    """Its self-convolution at every shift is that of the kernel itself, with zeros where the shift is no multiple."""
    torch.manual_seed(0)
    made = OCNN().conv(ConvSpec(3, 4, 3, Role("body"), padding=dilation, dilation=dilation))
    assert (made.dilation, made.padding) == ((dilation, dilation), (dilation, dilation))
    model = nn.Sequential(made).double()
    whole = spread(model[0].weight, dilation)
    expected = 0.5 * self_convolution(whole, 1, whole.shape[-1] - 1).norm()
    compare(model, OCNN(coefficient=0.5).penalty(model), expected)
    with pytest.raises(ValueError, match="ocnn: no penalty is known of a convolution with stride 2 and dilation"):
        OCNN().conv(ConvSpec(3, 4, 3, Role("body"), stride=2, padding=dilation, dilation=dilation))


@pytest.mark.parametrize(("outputs", "inputs", "stride"), [(3, 5, 1), (5, 3, 1), (3, 5, 2)])
def test_a_1x1_kernel_is_a_matrix(outputs: int, inputs: int, stride: int) -> None:
    """Compared on its smaller side, by singular values; the penalty is not squared."""
    model = layer(inputs, outputs, 1, stride)
    values = np.linalg.svd(model[0].weight.detach().flatten(1).numpy(), compute_uv=False)
    assert len(values) == 3
    assert OCNN(coefficient=1.0).penalty(model).item() == pytest.approx(math.sqrt(((values**2 - 1) ** 2).sum()))


@pytest.mark.parametrize("stride", [1, 2])
def test_zero_is_reached_by_orthogonal_convolutions_alone(stride: int) -> None:
    """The full penalty is zero where the operator's rows are orthonormal, and the operator is compared on many pixels.

    The released padding is zero for a kernel, too, whose copies overlap at the outer shifts.
    """
    model = layer(8, 2, 3, stride)
    weight = model[0].weight
    with torch.no_grad():
        weight.zero_()
        weight[0, 0, 0, 0] = weight[1, 1, 2, 1] = 1
        assert OCNN().penalty(model).item() <= 1e-15
        rows = functional.conv2d(torch.eye(8 * 81).double().view(-1, 8, 9, 9), weight, stride=stride).flatten(1).T
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)).double())
        weight[0, 0, 0, 2] = weight[0, 0, 0, 0] = math.sqrt(0.5)  # overlap with itself two pixels away
        assert OCNN(coefficient=1.0).penalty(model).item() == pytest.approx(math.sqrt(0.5))
        if stride == 1:
            assert OCNN(coefficient=1.0, padding="released").penalty(model).item() <= 1e-15


def test_released_padding_misses_the_outer_shifts() -> None:
    """Random kernels with stride 1 get less of a penalty; with stride 2 the identity is asked for where no copy lies."""
    for seed in range(3):
        model = layer(32, 32, 3, seed=seed)
        released, full = (OCNN(padding=padding).penalty(model).item() for padding in ("released", "full"))
        assert 0.90 <= released / full <= 0.97
    model = layer(2, 2, 3, 2)
    with torch.no_grad():
        model[0].weight.zero_()[0, 0, 1, 1] = 1
        model[0].weight[1, 1, 1, 1] = 1
    assert OCNN(coefficient=1.0).penalty(model).item() == pytest.approx(0, abs=1e-15)
    assert OCNN(coefficient=1.0, padding="released").penalty(model).item() == pytest.approx(math.sqrt(2))


def test_groups_are_compared_with_themselves_and_have_one_norm() -> None:
    model = layer(6, 9, 3, groups=3)
    parts = [self_convolution(part, 1, 2).square().sum() for part in model[0].weight.chunk(3)]
    compare(model, OCNN(coefficient=1.0).penalty(model), sum(parts).sqrt())


def test_layers_of_one_shape_and_of_several() -> None:
    shapes = [(3, 4, 3, 1), (3, 4, 3, 1), (3, 4, 3, 2), (4, 4, 1, 1), (4, 4, 1, 2), (4, 4, 3, 1)]
    model = nn.Sequential(*[layer(*shape, seed=seed)[0] for seed, shape in enumerate(shapes)])
    expected = sum(OCNN().penalty(nn.Sequential(each)) for each in model)
    compare(model, OCNN().penalty(model), expected)


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_layers_of_the_authors_code(name: str) -> None:
    """In residual networks of two 3x3 convolutions the first of each block and the shortcuts; never the stem."""
    model = build_classifier(name, {"width": 4}, OCNN(), 3, 5, 0)
    found = {key for key, module in model.named_modules() if isinstance(module, PenalizedConv2d)}
    every = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if name == "resnet18":
        assert found == {key for key in every if key.endswith(("conv1", "shortcut.0"))}
        assert len(found) == 8 + 3
    else:
        assert found == set(every[1:])
    complete = build_classifier(name, {"width": 4}, OCNN(layers="all"), 3, 5, 0)
    covered_all = {key for key, module in complete.named_modules() if isinstance(module, PenalizedConv2d)}
    assert covered_all == set(every[1:])


def test_all_three_of_a_bottleneck() -> None:
    """And not the convolutions of squeeze-and-excitation."""
    roles = [Role("body"), Role("grouped"), Role("body", last_in_block=True)]
    method = OCNN()
    made = [method.conv(ConvSpec(4, 4, size, role)) for size, role in zip((1, 3, 1), roles, strict=True)]
    assert all(type(each) is PenalizedConv2d for each in made)
    gate = method.conv(ConvSpec(4, 2, 1, Role("gate")))
    assert type(gate) is not PenalizedConv2d
    assert gate.bias is not None
