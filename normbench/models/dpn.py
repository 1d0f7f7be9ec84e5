"""Dual path networks for small images, Chen et al., arXiv 1707.01629: a block adds to some channels, appends others.

`dpn92` is DPN-92 of table 1 with the stem that is usual at 32x32: 3x3, stride 1, no pooling. It is the network of
Network Deconvolution's experiments (yechengxi/deconvolution at d221c221). As there, norms and activations come after
their convolutions, where the paper has them before, and the first stage has no stride.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

WIDTH, GROUPS = 96, 32


class Stage(NamedTuple):
    """A stage at a width of 96: blocks, channels that are added (the residual path), and channels a block appends."""

    blocks: int
    added: int
    appended: int


STAGES = (Stage(3, 256, 16), Stage(4, 512, 32), Stage(20, 1024, 24), Stage(3, 2048, 128))


class Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution: (N, in, H, W) -> (N, out, H/stride, W/stride).

    Its output has `added` channels, which are the sum of the shortcut's and its own, then those that the shortcut has
    beyond them, then `appended` new ones. The first block of a stage has a convolution as its shortcut, which gives as
    many channels as the block itself. inner: channels of the grouped convolution. role: makes the Role of a layer.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        inner: int,
        added: int,
        appended: int,
        stride: int,
        first: bool,
        groups: int,
        role: Callable[..., Role],
    ):
        super().__init__()
        body, grouped = role("body", activation="relu"), role("grouped", activation="relu")
        last, addition = role("projection", last_in_block=True), role("addition", activation="relu")
        out_channels = added + appended
        self.added = added
        self.conv1 = method.conv(ConvSpec(in_channels, inner, 1, role=body))
        self.norm1 = method.norm(inner, role=body)
        self.activation1 = method.activation(inner, role=body)
        self.conv2 = method.conv(ConvSpec(inner, inner, 3, stride=stride, padding=1, groups=groups, role=grouped))
        self.norm2 = method.norm(inner, role=grouped)
        self.activation2 = method.activation(inner, role=grouped)
        self.conv3 = method.conv(ConvSpec(inner, out_channels, 1, role=last))
        self.norm3 = method.norm(out_channels, role=last)
        self.shortcut: nn.Module = nn.Identity()
        if first:
            down = role("downsample")
            self.shortcut = nn.Sequential(
                method.conv(ConvSpec(in_channels, out_channels, 1, stride=stride, role=down)),
                method.norm(out_channels, role=down),
            )
        self.out_channels = (out_channels if first else in_channels) + appended
        self.activation3 = method.activation(self.out_channels, role=addition)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.activation2(self.norm2(self.conv2(y)))
        y, x = self.norm3(self.conv3(y)), self.shortcut(x)
        added = x[:, : self.added] + y[:, : self.added]
        return self.activation3(torch.cat([added, x[:, self.added :], y[:, self.added :]], 1))


class DPN(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, stages of blocks, global average pooling and a linear classifier. Every stage after
    the first halves the image size and doubles the channels. width: channels of the grouped convolutions of the first
    stage, a multiple of 32 or a divisor of it.
    """

    def __init__(self, method: Method, channels: int, classes: int, width: int):
        super().__init__()
        stem = Role("stem", architecture="dpn", activation="relu")
        in_channels = scaled(64, width)
        self.conv = method.conv(ConvSpec(channels, in_channels, 3, padding=1, role=stem))
        self.norm = method.norm(in_channels, role=stem)
        self.activation = method.activation(in_channels, role=stem)
        stages = []
        for stage, (blocks, added, appended) in enumerate(STAGES):
            role = functools.partial(Role, stage=stage, last_stage=stage == len(STAGES) - 1, architecture="dpn")
            layers = []
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                sizes = width * 2**stage, scaled(added, width), scaled(appended, width)
                block = Block(method, in_channels, *sizes, stride, index == 0, min(GROUPS, width), role)
                in_channels = block.out_channels
                layers.append(block)
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = method.linear(in_channels, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        return self.head(torch.mean(self.stages(y), dim=(2, 3)))


def scaled(channels: int, width: int) -> int:
    """The number of channels of a layer that has `channels` at the default width, at least 1."""
    return max(1, channels * width // WIDTH)


@register_classifier()
def dpn92(method: Method, channels: int, classes: int, *, width: int = WIDTH) -> DPN:
    """92 layers in four stages of 3, 4, 20 and 3 blocks (table 1).

    width: channels of the grouped convolutions of the first stage: at most 32, or a multiple of 32.
    """
    return DPN(method, channels, classes, width)
