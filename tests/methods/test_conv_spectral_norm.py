"""Convolutions over their norm as operators on images, against dense matrices of these operators."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.evaluation import fold
from normbench.functional import placement
from normbench.functional.constants import unchanging
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.conv_spectral_norm import ConvSpectralNorm
from normbench.methods.spectral_norm import SpectralNorm
from tests.oracles.operators import dense, singular_values, spread
from tests.support.weights import images, network, same_as_alone

BODY = Role("body")
SPECS = {
    "3x3": (ConvSpec(3, 4, 3, BODY, padding=1), (5, 6)),
    "strided": (ConvSpec(2, 3, 3, BODY, stride=2, padding=1), (7, 6)),
    "5x5": (ConvSpec(2, 2, 5, BODY, padding=2), (6, 6)),
    "no padding": (ConvSpec(2, 3, 3, BODY), (5, 5)),
    "grouped": (ConvSpec(4, 6, 3, BODY, padding=1, groups=2), (5, 4)),
    "depth-wise": (ConvSpec(4, 4, 3, BODY, padding=1, groups=4), (5, 5)),
    "dilated": (ConvSpec(3, 4, 3, BODY, padding=2, dilation=2), (5, 6)),
    "dilated, strided, grouped": (ConvSpec(4, 4, 3, BODY, stride=2, padding=3, groups=2, dilation=3), (7, 5)),
    "dilated beyond the image": (ConvSpec(2, 3, 3, BODY, padding=5, dilation=5), (3, 4)),
    "1x1, strided": (ConvSpec(5, 3, 1, BODY, stride=2), (4, 4)),
    "one pixel": (ConvSpec(3, 2, 3, BODY, padding=1), (1, 1)),
}


def convolved(spec: ConvSpec, weight: Tensor, x: Tensor) -> Tensor:
    return functional.conv2d(x, spread(weight, spec.dilation), None, spec.stride, spec.padding, groups=spec.groups)


@pytest.mark.parametrize("name", SPECS)
def test_norm_and_gradient(name: str) -> None:
    """Of a weight that rests, until the iteration has converged, against singular values and their derivative."""
    spec, size = SPECS[name]
    shape = (spec.in_channels, *size)
    torch.manual_seed(1)
    layer = ConvSpectralNorm(batch_norm=False, power_iterations=800).conv(spec).double()
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        original.mul_(3)
        layer(torch.zeros(1, *shape, dtype=torch.float64))
    layer.parametrizations.weight[0].steps = 1
    assert layer.parametrizations.weight[0]._v.shape == shape

    def formula(weight: Tensor) -> Tensor:
        return weight / torch.linalg.matrix_norm(dense(functools.partial(convolved, spec, weight), shape), 2)

    x = torch.randn(2, *shape, dtype=torch.float64)
    found, expected = layer(x), convolved(spec, formula(original), x) + layer.bias[:, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    (one,), (other,) = (torch.autograd.grad(y.sin().sum(), original) for y in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert singular_values(layer, shape)[0].item() == pytest.approx(1, rel=1e-9)
    assert singular_values(layer.eval(), shape)[0].item() == pytest.approx(1, rel=1e-9)


def test_the_matrix_form_is_not_the_norm_of_the_convolution() -> None:
    """A weight over the norm of its (out, in*kh*kw) matrix is a convolution of larger norm."""
    torch.manual_seed(0)
    layer = SpectralNorm(batch_norm=False).conv(ConvSpec(3, 8, 3, BODY, padding=1)).double()
    with torch.no_grad():
        for _ in range(300):
            layer.weight  # noqa: B018
    assert singular_values(layer.eval(), (3, 8, 8))[0] > 1.2


def test_an_image_of_another_size() -> None:
    """It is cropped or padded and iterated, and the evaluation keeps it, whatever its images are."""
    torch.manual_seed(0)
    layer = ConvSpectralNorm(batch_norm=False).conv(ConvSpec(3, 4, 3, BODY, padding=1)).double()
    fresh = singular_values(layer.eval(), (3, 8, 8))[0]  # after the 15 steps of its start
    assert 1 <= fresh < 1.05
    layer.train()
    for size in ((12, 9), (5, 7)):
        layer(torch.zeros(1, 3, *size, dtype=torch.float64))
        assert layer.parametrizations.weight[0]._v.shape == (3, *size)
        assert 1 <= singular_values(copy.deepcopy(layer).eval(), (3, *size))[0] < 1.05
    kept = layer.eval().weight
    layer(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    assert torch.equal(layer.weight, kept)
    other = ConvSpectralNorm(batch_norm=False).conv(ConvSpec(3, 4, 3, BODY, padding=1)).double()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval().weight, kept)


class Alone(ConvSpectralNorm):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(ConvSpectralNorm(batch_norm=False), Alone(batch_norm=False), layout)


def test_folding_and_constants() -> None:
    """In evaluation the weights are constants, computed once in a pass over the test images, and fold."""
    model = network(ConvSpectralNorm())
    model(images())
    model.eval()
    with torch.no_grad(), unchanging(model):
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        assert first.weight is first.weight
        expected = model(images(1))
    folded = fold(model)
    assert not any(hasattr(layer, "parametrizations") for layer in folded.modules())
    torch.testing.assert_close(folded.train()(images(1)), expected, rtol=1e-10, atol=1e-12)


def test_the_iteration_does_not_follow_autocast() -> None:
    layer = ConvSpectralNorm().conv(ConvSpec(3, 4, 3, BODY, padding=1))
    other = copy.deepcopy(layer)
    x = torch.randn(2, 3, 6, 6)
    layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert other(x).dtype == torch.bfloat16
    assert torch.equal(layer.parametrizations.weight[0]._v, other.parametrizations.weight[0]._v)
