"""Scaled Weight Standardization against its formula, and what timm's convolution computes instead."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional import placement
from normbench.functional.standardization import standardized
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.scaled_weight_standardization import (
    ScaledActivation,
    ScaledWeightStandardization,
    SkipInit,
    unit_gain,
)
from normbench.models.build import build_classifier
from tests.support.dispatch import same_strides
from tests.support.weights import same_as_alone

BODY = Role("body")


def formula(weight: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The authors', one filter after the other, by autograd."""
    found = []
    for one, factor in zip(weight, gain, strict=True):
        centred = one - one.sum() / one.numel()
        found.append(factor * centred / centred.square().sum().clamp_min(eps).sqrt())
    return torch.stack(found)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_weights_and_gradients(layout: str) -> None:
    """Of several weights at once, with filters so small that eps takes the place of their sum of squares."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4, 3, 3), (5, 7, 1, 1), (6, 1, 3, 3)]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for each in drawn:
        each[1] *= 1e-4
    weights = [w.contiguous(memory_format=placement.FORMATS[layout]).requires_grad_() for w in drawn]
    gains = [torch.randn(len(w), 1, 1, 1, generator=generator, dtype=torch.float64).requires_grad_() for w in weights]
    found = standardized(weights, "root of the sum of squares", 1e-4, gains)
    expected = [formula(weight, gain, 1e-4) for weight, gain in zip(weights, gains, strict=True)]
    outer = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    of_found, of_expected = (
        torch.autograd.grad(sum((y * g).sum() for y, g in zip(ys, outer, strict=True)), [*weights, *gains])
        for ys in (found, expected)
    )
    for one, other in zip((*found, *of_found), (*expected, *of_expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert all(same_strides(weight, one) for weight, one in zip(weights, of_found, strict=False))


def test_not_the_eps_of_timm() -> None:
    """timm adds 1e-6 to the variance; the authors bound the sum of squares by 1e-4, which wide filters of the same
    variance do not reach."""
    torch.manual_seed(0)
    layer = ScaledWeightStandardization().conv(ConvSpec(64, 4, 3, BODY, padding=1)).double()
    with torch.no_grad():
        raw = layer.parametrizations.weight.original
        raw.normal_(std=1e-3)
    of_timm = nn.functional.batch_norm(raw.detach().reshape(1, 4, -1), None, None, training=True, eps=1e-6)
    ratio = (of_timm * (64 * 9) ** -0.5).view_as(raw) / layer.weight.detach()
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(1 / 2)), rtol=0.1, atol=0)
    norms = layer.weight.detach().square().sum((1, 2, 3))
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_activations_keep_the_variance() -> None:
    """The authors' constants, which they have drawn: 1.7139 for a ReLU, 1.7059 for a leaky one of slope 0.01."""
    assert unit_gain(0) == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-12)
    assert unit_gain(0) == pytest.approx(1.7139588594436646, rel=1e-3)
    assert unit_gain(0.01) == pytest.approx(1.70590341091156, rel=2e-3)
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    for name in ("relu", "leaky_relu"):
        layer = ScaledWeightStandardization().activation(4, role=Role("body", activation=name))
        assert layer(x).var().item() == pytest.approx(1, rel=0.02)


def test_which_layers() -> None:
    method = ScaledWeightStandardization(alpha=0.3, skip_gain=0.5)
    layer, last = (method.conv(ConvSpec(4, 4, 3, Role("body", last_in_block=end), padding=1)) for end in (False, True))
    assert parametrize.is_parametrized(layer)
    assert not layer.bias.any()
    assert isinstance(last[1], SkipInit)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(last(x), 0.15 * last[0](x))
    assert not parametrize.is_parametrized(method.conv(ConvSpec(4, 4, 1, Role("gate"))))
    assert isinstance(method.norm(4, role=BODY), nn.Identity)
    assert isinstance(method.activation(4, role=Role("addition", activation="relu")), ScaledActivation)
    assert isinstance(method.activation(4, role=BODY), nn.Identity)
    with pytest.raises(ValueError, match="single weight"):
        method.conv(ConvSpec(4, 4, 1, BODY, groups=4))


def test_signals_keep_their_size_in_a_deep_network_without_norms() -> None:
    """At first every block is its shortcut; and with branches at full strength, the variance grows by 4 % a block."""
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for gain in (0.0, 1.0):
        method = ScaledWeightStandardization(skip_gain=gain)
        model = build_classifier("preact_resnet18", {"width": 16}, method, 3, 5, seed=0)
        seen: list[Tensor] = []
        for block in model.stages.modules():
            if hasattr(block, "conv2"):
                block.register_forward_hook(lambda _, __, y, seen=seen: seen.append(y.var()))
        with torch.no_grad():
            model(x)
        assert len(seen) == 8
        assert all(0.3 < each < 3 for each in seen)


class Alone(ScaledWeightStandardization):
    """The method without what the network does ahead of its layers."""

    def initialize(self, model: nn.Module) -> None:
        Method.initialize(self, model)


@pytest.mark.parametrize("layout", placement.FORMATS)
def test_a_network_computes_what_its_layers_would(layout: str) -> None:
    same_as_alone(ScaledWeightStandardization(skip_gain=1.0), Alone(skip_gain=1.0), layout)
