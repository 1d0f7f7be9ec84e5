"""EvoNorm-S0 and B0 against their formulas, and what they are where no activation follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.functional.channel_affine import ChannelAffine
from normbench.methods import registry
from normbench.methods.base import ConvSpec, Role
from normbench.methods.evonorm_b0 import EvoNormB0Layer
from normbench.methods.evonorm_s0 import EvoNormS0Layer
from normbench.models.registry import classifier
from tests.support.norms import by_map, follows, images, ready, step

LAYERS = {"evonorm_s0": EvoNormS0Layer, "evonorm_b0": EvoNormB0Layer}


def variance(values: Tensor) -> Tensor:
    return ((values - values.mean()) ** 2).mean()


def s0(layer: nn.Module, x: Tensor) -> Tensor:
    size = x.shape[1] // layer.groups

    def value(plane: Tensor, n: int, c: int) -> Tensor:
        group = x[n, c // size * size : (c // size + 1) * size]
        gated = plane / (1 + (-layer.v[c] * plane).exp())
        return layer.weight[c] * gated / (variance(group) + 1e-5) ** 0.5 + layer.bias[c]

    return by_map(x, value)


def b0(layer: nn.Module, x: Tensor) -> Tensor:
    def value(plane: Tensor, n: int, c: int) -> Tensor:
        whole = variance(x[:, c]) if layer.training else layer.running_var[c]
        first = (whole + 1e-3) ** 0.5
        second = layer.v[c] * plane + (variance(plane) + 1e-3) ** 0.5
        return layer.weight[c] * plane / torch.where(first > second, first, second) + layer.bias[c]

    return by_map(x, value)


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_formula_of_s0(size: tuple[int, int]) -> None:
    layer = ready(EvoNormS0Layer(8, 2, 1e-5))
    assert follows(layer, s0, images(size=size))
    assert follows(layer.eval(), s0, images(1, size=size))


def test_formula_of_b0() -> None:
    layer = ready(EvoNormB0Layer(8, 1e-3, 0.1))
    for x in (images(), images(seed=1), images(1), images(size=(1, 1))):
        assert follows(layer, b0, x)
    assert follows(layer.eval(), b0, images(2, seed=3))


def test_a_single_value_in_each_channel() -> None:
    """timm's layer divides by zero there."""
    layer = EvoNormB0Layer(8, 1e-3, 0.1).double()
    assert layer(images(1, size=(1, 1))).isfinite().all()
    assert torch.equal(layer.running_var, torch.full((8,), 0.9, dtype=torch.float64))


def test_running_variance_is_that_of_batch_norm() -> None:
    layer, reference = EvoNormB0Layer(8, 1e-3, 0.1).double(), nn.BatchNorm2d(8).double()
    for seed in range(3):
        layer(images(seed=seed)), reference(images(seed=seed))
    assert torch.allclose(layer.running_var, reference.running_var, rtol=1e-12)


def test_factors_and_summands() -> None:
    layer = ready(ChannelAffine(8))
    assert follows(layer, lambda layer, x: x * layer.weight[:, None, None] + layer.bias[:, None, None], images())
    x = images().bfloat16()
    y = layer.float()(x)
    assert y.dtype == torch.bfloat16
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("name", LAYERS)
def test_in_a_residual_network(name: str) -> None:
    """ReLUs stay after additions only. Branches end in a weight and a bias, as shortcuts do, and may begin at zero."""

    def ends(**options: object) -> list[bool]:
        network = classifier("resnet8", {"width": 4}, registry.build(name, options), 1, 3)
        assert sum(isinstance(module, LAYERS[name]) for module in network.modules()) == 4  # the stem's, three blocks'
        assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == 3
        found = [module for module in network.modules() if isinstance(module, ChannelAffine)]
        return [bool((end.weight == 0).all()) for end in found]

    assert ends() == [False] * 5
    assert ends(zero_init=True) == [True, True, False, True, False]


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_start_with_a_variance_of_one_over_the_fan_in(name: str) -> None:
    torch.manual_seed(0)
    layer = registry.build(name, {}).conv(ConvSpec(32, 64, 3, Role("body")))
    assert abs(layer.weight.var() * 32 * 9 - 1) < 0.05  # torch's own is a third of it


@pytest.mark.parametrize("name", LAYERS)
def test_without_an_addition_no_layer_begins_at_zero(name: str) -> None:
    network = classifier("vgg11", {"width": 4}, registry.build(name, {"zero_init": True}), 1, 3)
    assert all((module.weight != 0).all() for module in network.modules() if isinstance(module, LAYERS[name]))
    assert not any(isinstance(module, nn.ReLU | ChannelAffine) for module in network.modules())


@pytest.mark.parametrize("name", LAYERS)
def test_low_precision_is_rounded_once(name: str) -> None:
    x, role = (20 + images()).bfloat16(), Role("body", activation="relu")
    layer = registry.build(name, {}).norm(8, role=role)
    found = step(layer, x, list(layer.parameters()))
    exact = step(layer.double(), x.double(), list(layer.parameters()))
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert torch.allclose(found[0].double(), exact[0], rtol=2**-8, atol=1e-6)
