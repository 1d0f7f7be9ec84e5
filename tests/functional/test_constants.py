"""What layers keep within `unchanging`, and when they do not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from normbench.functional.constants import constant, unchanging
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: DeconvConv2d(4, 6, 3, padding=1), (5, 4, 7, 7)),
    "linear": (lambda: DeconvLinear(8, 3, block=4), (20, 8)),
}


class Counting(nn.Module):
    """Scales by a constant, and counts how often it was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.computed = nn.Parameter(torch.tensor(2.0)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * constant(self, x.dtype, (self.weight, None), self.compute)

    def compute(self) -> torch.Tensor:
        self.computed += 1
        return self.weight.square()


def test_a_constant_is_computed_once_in_a_context() -> None:
    layer, x = Counting().eval(), torch.ones(2)
    with torch.no_grad():
        layer(x), layer(x)
        assert layer.computed == 2
        with unchanging(nn.Sequential(layer)):
            layer(x), layer(x)
            with unchanging(layer):
                layer(x)
            layer(x)  # the inner context has not dropped what the outer one keeps
            assert layer.computed == 3
            layer(x.double())
            assert layer.computed == 4  # another key
            copy.deepcopy(layer)(x)
        layer.weight.fill_(3.0)
        assert layer(x).tolist() == [9.0, 9.0]
        with unchanging(layer):
            assert layer(x).tolist() == [9.0, 9.0]


def test_what_needs_a_gradient_is_not_kept() -> None:
    layer, x = Counting().eval(), torch.ones(2)
    with unchanging(layer):
        layer(x).sum().backward()
        assert layer.weight.grad is not None
        layer.requires_grad_(False)
        layer(x), layer(x)
        assert layer.computed == 2
        layer.train()
        layer(x)
        assert layer.computed == 3


def test_an_error_inside_drops_what_was_kept() -> None:
    layer = Counting().eval()
    with pytest.raises(RuntimeError, match="must match the size"), torch.no_grad(), unchanging(layer):
        layer(torch.ones(2)).add_(torch.ones(3))
    with torch.no_grad():
        layer(torch.ones(1))
    assert layer.computed == 2


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_with_constants_has_the_same_bits(name: str) -> None:
    """With and without gradients of the images, also for what was computed without them in inference mode."""
    make, shape = LAYERS[name]
    layer, generator = make(), torch.Generator().manual_seed(0)
    for _ in range(3):
        layer(torch.randn(shape, generator=generator))
    layer.eval().requires_grad_(False)
    x = torch.randn(shape, generator=generator)
    expected = layer(x)
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(given).square().sum(), given)
    with unchanging(layer):
        with torch.inference_mode():
            assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)
        (again,) = torch.autograd.grad(layer(given).square().sum(), given)
        assert torch.equal(again, gradient)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert torch.equal(layer(x), expected)
