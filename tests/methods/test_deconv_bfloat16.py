"""A deconvolution under autocast: products follow autocast as those of a convolution do, statistics are in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.functional import launches
from normbench.methods.network_deconvolution import DeconvConv2d

Layer = nn.Conv2d | DeconvConv2d


def passes(layer: Layer, x: Tensor, gradient: Tensor, low: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of the images and of the weight, in float32."""
    layer.zero_grad()
    image = x.to(torch.bfloat16 if low else torch.float32).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        y = layer(image)
    y.backward(gradient.to(y.dtype))
    assert image.grad is not None
    assert layer.weight.grad is not None
    return y.detach().float(), image.grad.float(), layer.weight.grad.clone()


@pytest.mark.parametrize("as_gpu", [True, False])
@pytest.mark.parametrize(("channels", "count", "size"), [(16, 16, 16), (64, 8, 8), (256, 8, 4)])
def test_rounding_is_that_of_a_convolution(
    channels: int, count: int, size: int, as_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the norm, no error is more than three times that of a plain convolution of images without a large mean."""
    monkeypatch.setattr(launches, "count", lambda _: as_gpu)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, size, size, generator=generator)
    x = nn.functional.avg_pool2d(x, 3, 1, 1).relu().bfloat16()
    gradient = torch.randn(count, channels, size, size, generator=generator).bfloat16()
    torch.manual_seed(0)
    deconv, conv = DeconvConv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    errors = []
    for layer in (deconv, conv):
        exact, rounded = passes(layer, x, gradient, False), passes(layer, x, gradient, True)
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(rounded, exact, strict=True)])
    for of_deconv, of_conv in zip(*errors, strict=True):
        assert 0 < of_conv < 0.01
        assert of_deconv <= 3 * of_conv


def test_statistics_are_in_float32() -> None:
    """The running averages of a layer under autocast are those of the same images in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, 9, 9, generator=generator).relu().bfloat16()
    buffers = []
    for low in (False, True):
        torch.manual_seed(0)
        layer = DeconvConv2d(8, 8, 3, padding=1)
        passes(layer, x, torch.ones(16, 8, 9, 9), low)
        buffers.append((layer.running_mean, layer.running_deconv))
    for a, b in zip(*buffers, strict=True):
        assert torch.equal(a, b)
