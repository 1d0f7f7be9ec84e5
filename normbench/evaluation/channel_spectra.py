"""Frequency responses of the output channels of convolutions, which ConvNorm (arXiv 2103.00673) is to make flat.

A channel whose response has the same norm at every frequency is an isometry but for its scale (section 3 of the paper).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normbench.methods.conv_norm import ConvNorm2d
from normbench.spectral import spread

AT_A_TIME = 16  # input channels


def extremes(layer: nn.Conv2d | ConvNorm2d, height: int, width: int) -> list[float] | None:
    """The least and the greatest norm of a channel's response, each relative to its root mean square: 1 if it is flat.

    Over all output channels and frequencies of the grid on which a height x width image can be convolved circularly,
    without wrapping. Channels without weights do not count. None for a kernel of one pixel, which is always flat, and
    where no channel has finite weights other than 0.
    """
    if tuple(layer.kernel_size) == (1, 1):
        return None
    power = responses(layer, height, width).square()  # (out, H, W)
    mean = power.mean((1, 2), keepdim=True)
    relative = (power / mean)[(mean > 0).flatten() & mean.isfinite().flatten()].sqrt()
    return [float(relative.min()), float(relative.max())] if relative.numel() else None


def responses(layer: nn.Conv2d | ConvNorm2d, height: int, width: int) -> Tensor:
    """The norms over input channels of each output channel's response, (out, H + kh - 1, W + kw - 1), float64.

    kh and kw are the pixels from the first to the last tap of the kernel, dilation included. The response of a
    ConvNorm2d is that of its normalized convolution, without the depth-wise kernel and the batch norm that follow. It
    is measured by what the layer itself makes of an impulse in each of its input channels.
    """
    weight = spread(layer.weight.detach().double(), (layer.dilation[0], layer.dilation[1]))
    rows, columns = (size + taps - 1 for size, taps in zip((height, width), weight.shape[2:], strict=True))
    if not isinstance(layer, ConvNorm2d):
        return torch.fft.fft2(weight, s=(rows, columns)).abs().square().sum(1).sqrt()
    whole = copy.deepcopy(layer).double()
    whole.affine = whole.batch_norm = None
    whole.padding, whole.stride = whole.full, (1, 1)
    channels = weight.shape[1] * layer.groups
    power = weight.new_zeros(len(weight), rows, columns)
    for some in torch.arange(channels, device=weight.device).split(AT_A_TIME):
        impulses = weight.new_zeros(len(some), channels, height, width)
        impulses[torch.arange(len(some)), some, 0, 0] = 1
        power += torch.fft.fft2(whole(impulses).detach()).abs().square().sum(0)
    return power.sqrt()
