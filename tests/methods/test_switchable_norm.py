"""Switchable Normalization against its formula, and where the public code loses digits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from normbench.methods.switchable_norm import SwitchableNorm2d
from tests.support.norms import by_map, follows, images, ready

EPS = 1e-5


def formula(layer: nn.Module, x: Tensor) -> Tensor:
    """Each set of values is pooled on its own."""

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.mean(), ((values - values.mean()) ** 2).mean()

    def value(plane: Tensor, n: int, c: int) -> Tensor:
        parts = [moments(plane), moments(x[n])]
        if layer.batch:
            kept = (layer.running_mean[c], layer.running_var[c]) if not layer.training else None
            parts.append(kept or moments(x[:, c]))
        shares = layer.logits.exp() / layer.logits.exp().sum(1, keepdim=True)
        mean = sum(share * part[0] for share, part in zip(shares[0], parts, strict=True))
        variance = sum(share * part[1] for share, part in zip(shares[1], parts, strict=True))
        return layer.weight[c] * (plane - mean) / (variance + EPS) ** 0.5 + layer.bias[c]

    return by_map(x, value)


@pytest.mark.parametrize("batch", [True, False])
def test_formula(batch: bool) -> None:
    made = ready(SwitchableNorm2d(8, EPS, 0.1, batch))
    for x in (images(), images(seed=1), images(size=(1, 1)), images(1), images(1, size=(1, 1))):
        assert follows(made, formula, x)
    assert follows(made.eval(), formula, images(2, seed=3))


def test_shares_begin_equal() -> None:
    logits = SwitchableNorm2d(8, EPS, 0.1, True).logits
    assert torch.equal(logits.softmax(1), torch.full((2, 3), 1 / 3))


def test_running_statistics_are_those_of_batch_norm() -> None:
    made, reference = ready(SwitchableNorm2d(8, EPS, 0.1, True)), nn.BatchNorm2d(8).double()
    for seed in range(3):
        made(images(seed=seed)), reference(images(seed=seed))
    assert torch.allclose(made.running_mean, reference.running_mean, rtol=1e-12)
    assert torch.allclose(made.running_var, reference.running_var, rtol=1e-12)


def test_large_means_cost_no_digits() -> None:
    """Where the mean of the squares minus the square of the mean has none left in float32."""
    x = images().float() + 3000
    made = SwitchableNorm2d(8, EPS, 0.1, True)
    exact = copy.deepcopy(made).double()(x.double())
    of_maps = x.mean((2, 3)), x.var((2, 3), correction=0)
    squares = (of_maps[1] + of_maps[0] ** 2).mean(0) - of_maps[0].mean(0) ** 2  # as in the public code
    variance = x.double().var((0, 2, 3), correction=0)
    assert (squares / variance - 1).abs().max() > 0.01
    assert torch.allclose(made(x).double(), exact, rtol=1e-3, atol=2e-3)


@pytest.mark.filterwarnings("ignore:var:UserWarning")
def test_maps_of_one_pixel_are_finite() -> None:
    """Their unbiased variance, which the public code takes, is not."""
    x = images(size=(1, 1))
    assert x.var((2, 3)).isnan().all()
    assert SwitchableNorm2d(8, EPS, 0.1, True).double()(x).isfinite().all()
