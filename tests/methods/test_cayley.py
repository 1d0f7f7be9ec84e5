"""Cayley convolutions against the formula frequency by frequency, and the singular values of their operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.evaluation.lipschitz import bounds
from normbench.functional import placement
from normbench.functional.cayley_transform import cayley
from normbench.functional.constants import unchanging
from normbench.functional.maxmin import MaxMin
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.cayley import Cayley, CayleyConv2d
from normbench.models.build import build_classifier
from tests.oracles.operators import singular_values
from tests.support.weights import images, same_as_alone

BODY = Role("body")


def transform(w: Tensor) -> Tensor:
    """The paper's formula: one matrix, by a solution of equations."""
    rows, columns = w.shape
    if columns > rows:
        return transform(w.T).T
    upper, lower = w[:columns], w[columns:]
    a = upper - upper.conj().T + lower.conj().T @ lower
    one = torch.eye(columns, dtype=w.dtype)
    return torch.cat([torch.linalg.solve(one + a, one - a), -2 * lower @ torch.linalg.solve(one + a, one)])


def circular(layer: CayleyConv2d, x: Tensor) -> Tensor:
    """The layer's convolution by sums over pixels and frequencies: transforms by their definition."""
    count, _, height, width = x.shape
    kernel = layer.alpha * layer.weight / layer.weight.square().sum().sqrt()
    out, inputs, taps, _ = kernel.shape
    groups = layer.groups
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    spectrum = torch.zeros(count, out, height, width, dtype=torch.complex128)
    for s in range(height):
        for t in range(width):
            wave = torch.exp(-2j * math.pi * (s * rows[:, None] / height + t * columns / width))
            found = (x * wave).sum((2, 3))
            symbol = torch.zeros(out, inputs, dtype=torch.complex128)
            for p in range(taps):
                for q in range(taps):
                    down, across = (layer.dilation * (tap - (taps - 1) // 2) for tap in (p, q))
                    shift = s * down / height + t * across / width
                    symbol = symbol + kernel[:, :, p, q] * complex(
                        math.cos(2 * math.pi * shift), math.sin(2 * math.pi * shift)
                    )
            parts = zip(symbol.chunk(groups), found.chunk(groups, 1), strict=True)
            mixed = torch.cat([z @ transform(w).T for w, z in parts], 1)
            spectrum = spectrum + mixed[:, :, None, None] * wave.conj()
    return spectrum.real / (height * width) + layer.bias[:, None, None]


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5), (1, 4, 4), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_transform_and_its_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()
    found, expected = cayley(w), torch.stack([transform(each) for each in w])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    wave = torch.randn_like(expected)
    one, other = (torch.autograd.grad((q * wave).real.sum(), w)[0] for q in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ((2, 3, 3), (4, 5)),
        ((3, 2, 3, 1), (3, 4)),
        ((4, 4, 3, 1, 2), (3, 3)),
        ((2, 2, 1), (2, 3)),
        ((2, 2, 3), (1, 2)),
        ((2, 3, 3, 1, 1, 2), (5, 4)),
        ((4, 2, 3, 1, 2, 3), (4, 3)),
    ],
)
def test_outputs_and_gradients(form: tuple[int, ...], size: tuple[int, int]) -> None:
    """On images that are not square, and smaller than the kernel, which then wraps around them more than once."""
    torch.manual_seed(0)
    layer = CayleyConv2d(*form).double()
    with torch.no_grad():
        layer.alpha.mul_(1.7)
    x = torch.randn(2, form[0], *size, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x), circular(layer, x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    given = (x, layer.weight, layer.alpha, layer.bias)
    pairs = zip(*(torch.autograd.grad(y.sin().sum(), given) for y in (found, expected)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_stride_is_a_convolution_of_blocks() -> None:
    """Of 4 times the channels with a kernel of half the size; odd images get zeros below and on the right."""
    torch.manual_seed(0)
    layer = CayleyConv2d(2, 5, 3, stride=2).double()
    assert layer.weight.shape == (5, 8, 1, 1)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    padded = functional.pad(x, (0, 0, 0, 1))
    shifted = [padded[:, c, i::2, j::2] for c in range(2) for i in range(2) for j in range(2)]
    same = CayleyConv2d(8, 5, 1).double()
    same.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), same(torch.stack(shifted, 1)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", [(3, 3, 3), (2, 4, 3), (4, 2, 3), (2, 8, 3, 2), (4, 4, 3, 1, 2), (2, 2, 3, 1, 2)])
def test_singular_values(form: tuple[int, ...], training: bool) -> None:
    """Those of the operator on 6x5 images, or 6x6 where it is strided: all are 1, up to what it projects away."""
    torch.manual_seed(0)
    layer = CayleyConv2d(*form).double().train(training)
    with torch.no_grad():
        layer.alpha.mul_(3)
    values = singular_values(layer, (form[0], 6, 6 if len(form) == 4 else 5))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=1e-10, atol=1e-10)


def test_constants_in_evaluation() -> None:
    """Its matrices are computed once for each size, and are those of the layer."""
    torch.manual_seed(0)
    layer = CayleyConv2d(3, 4, 3).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected, smaller = layer(x), layer(x[..., :4])
        with unchanging(layer):
            assert torch.equal(layer(x), expected)
            assert layer.matrices(6, 6, torch.float32) is layer.matrices(6, 6, torch.float32)
            assert torch.equal(layer(x[..., :4]), smaller)


def test_max_min() -> None:
    x = torch.tensor([[3.0, -1, 5], [1.0, 4, 7]]).requires_grad_()
    y = MaxMin()(x)
    assert y.tolist() == [[3, -1, 5], [4, 1, 7]]  # the last of three channels is no pair
    y.backward(torch.tensor([[1.0, 2, 3], [4.0, 5, 6]]))
    assert x.grad.tolist() == [[1, 2, 3], [5, 4, 6]]
    assert MaxMin()(torch.tensor([[2.0]])).tolist() == [[2]]
    assert MaxMin()(torch.tensor([[float("nan"), 1.0]])).isnan().all()
    x = torch.randn(5, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMin(), x)
    assert torch.autograd.gradgradcheck(MaxMin(), x)


def test_a_network_has_the_lipschitz_constant_of_its_additions() -> None:
    """Every layer has the norm 1, a block with a shortcut 2, and the mean over 4x4 pixels 1/4."""
    model = build_classifier("resnet8", {"width": 4}, Cayley(), 3, 5, seed=0).double().eval()
    found = bounds(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert all(layer["bound"] == pytest.approx(1, abs=1e-9) for layer in found["layers"])
    assert len(found["layers"]) == 10
    assert found["product"] == pytest.approx(2**3 / 4)
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model, x).view(5, -1)
    assert torch.linalg.matrix_norm(jacobian, 2) <= found["product"] * (1 + 1e-9)


class Alone(Cayley):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(Cayley(), Alone(), layout)


def test_what_is_refused_and_what_is_not_theirs() -> None:
    method = Cayley()
    with pytest.raises(ValueError, match="has the padding 1, not 0"):
        method.conv(ConvSpec(2, 2, 3, BODY))
    with pytest.raises(ValueError, match="kernel_size 2 is even"):
        CayleyConv2d(2, 2, 2)
    assert isinstance(method.conv(ConvSpec(4, 4, 1, Role("gate"))), nn.Conv2d)
    assert isinstance(method.norm(4, role=BODY), nn.Identity)
    assert isinstance(method.activation(4, role=Role("addition", activation="relu")), MaxMin)
    assert isinstance(method.activation(4, role=BODY), nn.Identity)
    rows = method.linear(6, 4, role=Role("head")).weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-5)


def test_precision_under_autocast() -> None:
    """Transforms and matrices are in float32, and the result is rounded once, as that of a convolution."""
    torch.manual_seed(0)
    layer, x = CayleyConv2d(3, 4, 3), images().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert torch.equal(found, layer(x).bfloat16())
    assert layer(x.bfloat16()).dtype == torch.bfloat16
