"""Weight Standardization against its formula, filter by filter, and what timm's convolution computes instead."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional import placement
from normbench.functional.standardization import standardized
from normbench.methods import registry
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.group_norm import Float32GroupNorm
from normbench.methods.weight_standardization import Standardize, WeightStandardization
from tests.support.dispatch import same_strides
from tests.support.weights import same_as_alone


def formula(weight: Tensor, eps: float) -> Tensor:
    """The paper's, one filter after the other, by autograd."""
    return torch.stack([(filter - filter.mean()) / (filter.std() + eps) for filter in weight])


@pytest.mark.parametrize("layout", placement.FORMATS)
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_weights_and_gradients(layout: str, eps: float) -> None:
    """Those of several weights at once: 3x3, 1x1, and a depth-wise one."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4, 3, 3), (5, 7, 1, 1), (6, 1, 3, 3)]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) + 0.5 for s in shapes]
    weights = [w.contiguous(memory_format=placement.FORMATS[layout]).requires_grad_() for w in drawn]
    found = standardized(weights, "deviation", eps)
    expected = [formula(weight, eps) for weight in weights]
    outer = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    of_found, of_expected = (
        torch.autograd.grad(sum((y * g).sum() for y, g in zip(ys, outer, strict=True)), weights)
        for ys in (found, expected)
    )
    for weight, *pairs in zip(weights, found, expected, of_found, of_expected, strict=True):
        torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pairs[2], pairs[3], rtol=1e-11, atol=1e-12)
        assert same_strides(weight, pairs[2])


def test_not_the_biased_deviation_of_timm() -> None:
    """timm takes the biased variance, so that a depth-wise filter is larger by sqrt(9 / 8)."""
    layer = WeightStandardization().conv(ConvSpec(4, 4, 3, Role("depthwise"), padding=1, groups=4)).double()
    raw = layer.parametrizations.weight.original.detach()
    of_timm = nn.functional.batch_norm(raw.reshape(1, 4, -1), None, None, training=True, eps=1e-6).view_as(raw)
    torch.testing.assert_close(
        of_timm / layer.weight.detach(), torch.full_like(raw, math.sqrt(9 / 8)), rtol=1e-3, atol=0
    )


def test_a_constant_filter_gives_zeros_and_a_finite_gradient() -> None:
    weight = torch.full((3, 2, 3, 3), 0.7)
    weight[1].normal_()
    weight.requires_grad_()
    (found,) = standardized([weight], "deviation", 1e-5)
    assert found[::2].abs().max() < 1e-2  # of rounding
    (gradient,) = torch.autograd.grad(found.sin().sum(), weight)
    assert gradient.isfinite().all()


def test_which_layers() -> None:
    """All convolutions but gates, with the group norm of the method `group_norm`."""
    method = WeightStandardization()
    for place, normalized in (("stem", True), ("downsample", True), ("gate", False)):
        layer = method.conv(ConvSpec(8, 8, 1, Role(place)))
        assert parametrize.is_parametrized(layer) == normalized
        assert (layer.bias is None) == normalized
    assert isinstance(method.norm(16, role=Role("body")), Float32GroupNorm)
    assert not parametrize.is_parametrized(method.linear(4, 3, role=Role("head")))
    with pytest.raises(ValueError, match="single weight"):
        method.conv(ConvSpec(4, 4, 1, Role("body"), groups=4))


class Alone(WeightStandardization):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(WeightStandardization(), Alone(), layout)


def test_the_formula_is_computed_in_float32_under_autocast() -> None:
    layer = registry.build("weight_standardization", {}).conv(ConvSpec(4, 5, 3, Role("body"), padding=1))
    expected = layer.weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight.detach(), expected)
        assert layer(torch.randn(2, 4, 6, 6)).dtype == torch.bfloat16
    copied = copy.deepcopy(layer)
    assert isinstance(copied.parametrizations.weight[0], Standardize)
    assert torch.equal(copied.weight, expected)
