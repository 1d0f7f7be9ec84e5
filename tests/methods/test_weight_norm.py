"""Weight Normalization against its formula, and batch normalization of the mean alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from normbench.functional import placement
from normbench.methods.base import ConvSpec, Role
from normbench.methods.weight_norm import MeanOnlyBatchNorm2d, WeightNorm
from normbench.models.build import build_classifier
from tests.support.dispatch import same_strides


def formula(length: Tensor, direction: Tensor) -> Tensor:
    """g v / ||v||, one filter after the other."""
    return torch.stack([g * v / v.square().sum().sqrt() for g, v in zip(length, direction, strict=True)])


@pytest.mark.parametrize("layout", placement.FORMATS)
@pytest.mark.parametrize(
    "spec",
    [ConvSpec(6, 4, 3, Role("body"), padding=1), ConvSpec(4, 8, 3, Role("grouped"), stride=2, padding=1, groups=2)],
)
def test_outputs_and_gradients(spec: ConvSpec, layout: str) -> None:
    torch.manual_seed(0)
    layer = WeightNorm().conv(spec).double().to(memory_format=placement.FORMATS[layout])
    length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    with torch.no_grad():
        length.uniform_(-1, 2)
        layer.bias.normal_()
    x = torch.randn(3, spec.in_channels, 7, 7, dtype=torch.float64)
    found = layer(x)
    expected = functional.conv2d(
        x, formula(length, direction), layer.bias, spec.stride, spec.padding, groups=spec.groups
    )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    of_formula = torch.autograd.grad(expected.sin().sum(), (length, direction))
    found.sin().sum().backward()
    for parameter, gradient in zip((length, direction), of_formula, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-11)
        assert same_strides(parameter, parameter.grad)


@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_initial_lengths(gain: float) -> None:
    """Those of He et al., and `residual_gain` times as long at the end of a branch, where 0 is not divided by itself."""
    torch.manual_seed(0)
    for last, factor in ((False, 1.0), (True, gain)):
        layer = WeightNorm(residual_gain=gain).conv(ConvSpec(64, 64, 3, Role("body", last_in_block=last), padding=1))
        assert layer.weight.isfinite().all()
        assert layer.weight.std().item() == pytest.approx(factor * math.sqrt(2 / (64 * 9)), rel=0.02)
        assert layer.parametrizations.weight.original1.std() > 0


def test_which_layers() -> None:
    method, only_means = WeightNorm(), WeightNorm(mean_only_batch_norm=True)
    assert not parametrize.is_parametrized(method.conv(ConvSpec(4, 4, 1, Role("gate"))))
    assert parametrize.is_parametrized(method.linear(4, 3, role=Role("head")))
    assert isinstance(method.norm(4, role=Role("body")), nn.Identity)
    assert isinstance(only_means.norm(4, role=Role("body")), MeanOnlyBatchNorm2d)
    assert only_means.conv(ConvSpec(4, 4, 3, Role("body"))).bias is None


def test_the_mean_alone() -> None:
    """That of the batch in training, and the running one in evaluation; a batch of one image of one pixel works."""
    layer = MeanOnlyBatchNorm2d(3).double()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2, 3]))
    running = torch.zeros(3, dtype=torch.float64)
    for seed in range(2):
        x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2
        x.requires_grad_()
        y = layer(x)
        means = torch.stack([x[:, c].mean() for c in range(3)])
        expected = torch.stack([x[:, c] - means[c] + layer.bias[c] for c in range(3)], 1)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        one, other = (torch.autograd.grad(z.sin().sum(), x, retain_graph=True)[0] for z in (y, expected))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        running = 0.9 * running + 0.1 * means.detach()
    torch.testing.assert_close(layer.running_mean, running)
    x = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(layer.eval()(x)[0, :, 0, 0], x[0, :, 0, 0] - running + layer.bias)
    torch.testing.assert_close(layer.train()(x[:1])[0, :, 0, 0], layer.bias)


def test_a_network_with_means_alone_trains() -> None:
    model = build_classifier("resnet8", {"width": 4}, WeightNorm(mean_only_batch_norm=True), 3, 5, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 3, 8, 8)).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
