"""Switchable Whitening against its formula, image by image and group by group."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normbench.methods.switchable_whitening import SwitchableWhitening2d
from tests.oracles.layers import newton
from tests.support.norms import follows, images, ready

EPS = 1e-5
MANY = "bw_iw_bn_in_ln"


def covariance(values: Tensor) -> Tensor:
    centred = values - values.mean(1, keepdim=True)
    return centred @ centred.T / values.shape[1]


def formula(layer: SwitchableWhitening2d, x: Tensor) -> Tensor:
    shares = layer.logits.exp() / layer.logits.exp().sum(1, keepdim=True)
    of_means, of_spreads = shares[0], shares[-1]
    done = []
    for image in x:
        parts = []
        for index in range(x.shape[1] // layer.size):
            chosen = slice(index * layer.size, (index + 1) * layer.size)
            values, pool = image[chosen].flatten(1), x[:, chosen].transpose(0, 1).flatten(1)
            batch = pool.mean(1, keepdim=True), covariance(pool)
            if not layer.training:
                batch = layer.running_mean[index].T, layer.running_cov[index]
            own, one = (values.mean(1, keepdim=True), covariance(values)), torch.eye(layer.size, dtype=x.dtype)
            found = {
                "bw": batch,
                "iw": own,
                "bn": (batch[0], batch[1].diag().diag()),
                "in": (own[0], own[1].diag().diag()),
                "ln": (image.mean(), ((image - image.mean()) ** 2).mean() * one),
            }
            mean = sum(share * found[kind][0] for share, kind in zip(of_means, layer.kinds, strict=True))
            spread = sum(share * found[kind][1] for share, kind in zip(of_spreads, layer.kinds, strict=True))
            parts.append(newton(spread + EPS * one, layer.iterations) @ (values - mean))
        done.append(torch.cat(parts).view(image.shape) * layer.weight[:, None, None] + layer.bias[:, None, None])
    return torch.stack(done)


@pytest.mark.parametrize(("kinds", "tied"), [("bw_iw", False), ("bw_iw", True), ("bw_iw_ln", False), (MANY, False)])
def test_formula(kinds: str, tied: bool) -> None:
    layer = ready(SwitchableWhitening2d(8, 4, kinds, tied, 5, EPS, 0.1))
    x = images(3)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert follows(layer, formula, given)
    assert follows(layer.eval(), formula, images(2, seed=1))


def test_all_five_have_shares_of_their_own() -> None:
    """The public code has the shares of BW and IW for BN and IN in the covariance."""
    layer, x = SwitchableWhitening2d(8, 4, MANY, False, 5, EPS, 0.1).double(), images()
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([[0.0, 0, 0, 0, 0], [-9, -9, 9, -9, -9]]))
        only_bn = layer(x)
        layer.logits[0, 3] = 1.0  # another share of a mean leaves that of the covariance
        layer.logits[1, 2:4] = torch.tensor([-9.0, 9])
        only_in = layer(x)
    assert not torch.allclose(only_bn, only_in, atol=0.1)


def test_running_statistics() -> None:
    layer, x = SwitchableWhitening2d(8, 4, "bw_iw", False, 5, EPS, 0.25).double(), images()
    layer(x)
    values = x[:, :4].transpose(0, 1).flatten(1)
    assert torch.allclose(layer.running_mean[0, 0], 0.25 * values.mean(1), rtol=1e-12)
    expected = 0.75 * torch.eye(4, dtype=x.dtype) + 0.25 * covariance(values)
    assert torch.allclose(layer.running_cov[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kinds", ["bw_iw", MANY])
@pytest.mark.parametrize(("count", "size"), [(1, (1, 1)), (3, (1, 1)), (1, (2, 3))])
def test_few_values_are_finite(count: int, size: tuple[int, int], kinds: str) -> None:
    layer = SwitchableWhitening2d(8, 4, kinds, False, 5, EPS, 0.1)
    x = images(count, size=size).float().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
