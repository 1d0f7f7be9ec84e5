"""Filter Response Normalization and its activation against their formulas, and where they are put in a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.methods import registry
from normbench.methods.base import Role
from normbench.methods.filter_response_norm import FilterResponseNorm2d, ThresholdedLinearUnit
from normbench.models.registry import classifier
from tests.support.norms import by_map, follows, images, ready


def formula(layer: nn.Module, x: Tensor) -> Tensor:
    def value(plane: Tensor, n: int, c: int) -> Tensor:
        eps = layer.eps[c].abs() if isinstance(layer.eps, Tensor) else layer.eps
        return layer.weight[c] * plane / ((plane**2).sum() / plane.numel() + eps) ** 0.5 + layer.bias[c]

    return by_map(x, value)


@pytest.mark.parametrize("learned_eps", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_formula(size: tuple[int, int], learned_eps: bool) -> None:
    made = ready(FilterResponseNorm2d(8, 1e-6, learned_eps))
    if learned_eps:
        with torch.no_grad():
            made.eps[::2] *= -1  # its absolute value counts
    assert follows(made, formula, images(size=size))
    assert follows(made.eval(), formula, images(1, size=size))


def test_activation() -> None:
    layer = ready(ThresholdedLinearUnit(8))
    assert follows(
        layer, lambda layer, x: torch.stack([x[:, c].clamp(min=layer.threshold[c]) for c in range(8)], 1), images()
    )
    fresh = ThresholdedLinearUnit(8).double()
    x = images().round(decimals=0).requires_grad_()  # with zeros
    y = fresh(x)
    assert torch.equal(y, x.relu())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(x.relu().sum(), x)[0])


def test_squares_do_not_overflow() -> None:
    """Those of float16 do from 256 on, and the public code takes them in it."""
    x = (300 + images()).half()
    assert x.square().isinf().all()
    y = FilterResponseNorm2d(8, 1e-6, False)(x)
    assert y.dtype == torch.float16
    assert torch.allclose(y.double(), formula(FilterResponseNorm2d(8, 1e-6, False), x.double()), rtol=1e-3)


def test_every_rectified_linear_unit_of_the_main_path_is_replaced() -> None:
    """That after an addition too; the last norm of a branch and that of a shortcut have none."""
    network = classifier("resnet8", {"width": 4}, registry.build("filter_response_norm", {}), 1, 3)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(FilterResponseNorm2d) == 9
    assert kinds.count(ThresholdedLinearUnit) == 7  # the stem's, and two in each of three blocks
    assert nn.ReLU not in kinds
    method = registry.build("filter_response_norm", {})
    assert isinstance(method.activation(4, role=Role("projection")), nn.Identity)
