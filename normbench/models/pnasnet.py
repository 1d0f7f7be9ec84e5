"""Small networks of cells after PNASNet, Liu et al., arXiv 1712.00559, from the experiments of Network Deconvolution.

`pnasnet_a` and `pnasnet_b` are the networks of yechengxi/deconvolution at d221c221. They share with the paper the kinds
of branches in a cell. Deviations of that code, kept here: a separable convolution is one depth-wise convolution,
without a 1x1 convolution after it; a cell takes the output of the last cell alone; there are six cells at each
resolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

CELLS, STAGES = 6, 3  # cells at each resolution, and resolutions


class Depthwise(nn.Module):
    """A depth-wise convolution with its norm: (N, in, H, W) -> (N, out, H/stride, W/stride), one or two maps a channel.

    role: makes the Role of a layer in this stage. last: whether the branch that ends here is added to the pooled one,
    which is a shortcut.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        out_channels: int,
        size: int,
        stride: int,
        role: Callable[..., Role],
        last: bool,
    ):
        super().__init__()
        here = role("depthwise", last_in_block=last)
        spec = ConvSpec(
            in_channels, out_channels, size, stride=stride, padding=size // 2, groups=in_channels, role=here
        )
        self.conv, self.norm = method.conv(spec), method.norm(out_channels, role=here)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Pooled(nn.Module):
    """Max pooling over 3x3, and if the size changes a 1x1 convolution: (N, in, H, W) -> (N, out, H/stride, W/stride).

    role: makes the Role of a layer in this stage.
    """

    def __init__(self, method: Method, in_channels: int, out_channels: int, stride: int, role: Callable[..., Role]):
        super().__init__()
        self.stride, down = stride, role("downsample")
        self.resized: nn.Module = nn.Identity()
        if stride != 1:
            self.resized = nn.Sequential(
                method.conv(ConvSpec(in_channels, out_channels, 1, role=down)), method.norm(out_channels, role=down)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.resized(functional.max_pool2d(x, 3, self.stride, 1))


class CellA(nn.Module):
    """The sum of a depth-wise 7x7 convolution and of a pooling: (N, in, H, W) -> (N, out, H/stride, W/stride).

    role: makes the Role of a layer in this stage.
    """

    def __init__(self, method: Method, in_channels: int, out_channels: int, stride: int, role: Callable[..., Role]):
        super().__init__()
        self.deep = Depthwise(method, in_channels, out_channels, 7, stride, role, last=True)
        self.pooled = Pooled(method, in_channels, out_channels, stride, role)
        self.activation = method.activation(out_channels, role=role("addition", activation="relu"))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.deep(x) + self.pooled(x))


class CellB(nn.Module):
    """Four branches in two sums, joined by a 1x1 convolution: (N, in, H, W) -> (N, out, H/stride, W/stride).

    role: makes the Role of a layer in this stage.
    """

    def __init__(self, method: Method, in_channels: int, out_channels: int, stride: int, role: Callable[..., Role]):
        super().__init__()
        deep = functools.partial(Depthwise, method, in_channels, out_channels)
        addition, body = role("addition", activation="relu"), role("body", activation="relu")
        self.deep7, self.deep3 = deep(7, stride, role, last=False), deep(3, stride, role, last=False)
        self.pooled = Pooled(method, in_channels, out_channels, stride, role)
        self.deep5 = deep(5, stride, role, last=True)
        self.activation1 = method.activation(out_channels, role=addition)
        self.activation2 = method.activation(out_channels, role=addition)
        self.conv = method.conv(ConvSpec(2 * out_channels, out_channels, 1, role=body))
        self.norm = method.norm(out_channels, role=body)
        self.activation = method.activation(out_channels, role=body)

    def forward(self, x: Tensor) -> Tensor:
        one = self.activation1(self.deep7(x) + self.deep3(x))
        other = self.activation2(self.pooled(x) + self.deep5(x))
        return self.activation(self.norm(self.conv(torch.cat([one, other], 1))))


class PNASNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, six cells at each of three resolutions with a reducing cell between them, which
    doubles the channels, global average pooling and a linear classifier. A reducing cell is the first of its stage.
    cell: the class of its cells. width: channels of the stem. architecture: the network in the roles of its layers.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        classes: int,
        cell: type[CellA] | type[CellB],
        width: int,
        architecture: str,
    ):
        super().__init__()
        stem = Role("stem", architecture=architecture, activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=stem))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        stages, in_channels = [], width
        for stage in range(STAGES):
            role = functools.partial(Role, stage=stage, last_stage=stage == STAGES - 1, architecture=architecture)
            layers, out_channels = [], width * 2**stage
            if stage > 0:
                layers.append(cell(method, in_channels, out_channels, 2, role))
            layers += [cell(method, out_channels, out_channels, 1, role) for _ in range(CELLS)]
            stages.append(nn.Sequential(*layers))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.head = method.linear(in_channels, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        return self.head(torch.mean(self.stages(y), dim=(2, 3)))


@register_classifier()
def pnasnet_a(method: Method, channels: int, classes: int, *, width: int = 44) -> PNASNet:
    """20 cells of two branches; channels mix only where the resolution is halved. width: channels of the stem."""
    return PNASNet(method, channels, classes, CellA, width, "pnasnet_a")


@register_classifier()
def pnasnet_b(method: Method, channels: int, classes: int, *, width: int = 32) -> PNASNet:
    """20 cells of four branches. width: channels of the stem."""
    return PNASNet(method, channels, classes, CellB, width, "pnasnet_b")
