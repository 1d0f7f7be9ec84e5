"""Responses of channels: against their definition by numpy, and flat for ConvNorm alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normbench.evaluation.channel_spectra import extremes, responses
from normbench.methods.conv_norm import ConvNorm2d
from tests.oracles.operators import spread


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_response_of_a_convolution_by_numpy(groups: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 5), stride, (1, 2), groups=groups)
    found = responses(layer, 7, 8)
    spectrum = np.fft.fft2(layer.weight.detach().double().numpy(), s=(9, 12))
    expected = np.sqrt((np.abs(spectrum) ** 2).sum(1))
    assert found.numpy() == pytest.approx(expected, rel=1e-12)
    relative = expected / np.sqrt((expected**2).mean((1, 2), keepdims=True))
    assert extremes(layer, 7, 8) == pytest.approx([relative.min(), relative.max()], rel=1e-12)


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 1, 1), (2, 1, 0), (1, 2, 1)])
def test_conv_norm_is_flat_before_its_depthwise_kernel(groups: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = ConvNorm2d(20, 6, 3, stride, padding, groups)
    with torch.no_grad():
        layer.affine.weight.normal_()
    assert extremes(layer.eval(), 6, 7) == pytest.approx([1, 1], abs=1e-9)


def test_the_response_of_a_dilated_convolution_by_numpy() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding=2, dilation=(2, 3))
    whole = spread(layer.weight.detach().double(), (2, 3)).numpy()
    spectrum = np.fft.fft2(whole, s=(7 + 4, 8 + 6))
    assert responses(layer, 7, 8).numpy() == pytest.approx(np.sqrt((np.abs(spectrum) ** 2).sum(1)), rel=1e-12)
    flat = ConvNorm2d(4, 6, 3, 1, 2, dilation=2).eval()
    assert extremes(flat, 7, 8) == pytest.approx([1, 1], abs=1e-9)


def test_a_filter_of_another_kernel_is_not_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is the layer's own filter: one that belongs to other weights shows."""
    torch.manual_seed(0)
    layer, other = ConvNorm2d(3, 4, 3, padding=1), ConvNorm2d(3, 4, 3, padding=1)
    own = ConvNorm2d.filter
    monkeypatch.setattr(ConvNorm2d, "filter", lambda _, full: own(other, full))
    low, high = extremes(layer, 8, 8)
    assert low < 0.9
    assert high > 1.1


def test_what_has_no_spectrum() -> None:
    assert extremes(nn.Conv2d(3, 4, 1), 8, 8) is None
    layer = nn.Conv2d(2, 2, 3, padding=1)
    with torch.no_grad():
        layer.weight[0] = 0
    found = extremes(layer, 8, 8)
    with torch.no_grad():
        layer.weight[0] = layer.weight[1]
    assert extremes(layer, 8, 8) == pytest.approx(found)
    with torch.no_grad():
        layer.weight.zero_()
    assert extremes(layer, 8, 8) is None
