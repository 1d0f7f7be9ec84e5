"""ResNeXt-29 for small images, Xie et al., arXiv 1611.05431: bottlenecks whose 3x3 convolution has groups.

`resnext29_2x64d` has 2 groups of 64 channels in the first stage, `resnext29_32x4d` 32 groups of 4. The paper's CIFAR
networks have 8 or 16 groups of 64 and a 3x3 stem. The smaller ones here, with a 1x1 stem, are those of common
implementations and of Network Deconvolution's experiments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

BLOCKS = (3, 3, 3)
EXPANSION = 4  # output channels of the first stage, as a multiple of the stem's; every later stage doubles them


class Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution, and a shortcut: (N, in, H, W) -> (N, out, H/stride, W/stride).

    inner: channels of the grouped convolution. role: makes the Role of a layer in this stage.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int,
        groups: int,
        role: Callable[..., Role],
    ):
        super().__init__()
        body, grouped = role("body", activation="relu"), role("grouped", activation="relu")
        last, addition = role("projection", last_in_block=True), role("addition", activation="relu")
        self.conv1 = method.conv(ConvSpec(in_channels, inner, 1, role=body))
        self.norm1 = method.norm(inner, role=body)
        self.activation1 = method.activation(inner, role=body)
        self.conv2 = method.conv(ConvSpec(inner, inner, 3, stride=stride, padding=1, groups=groups, role=grouped))
        self.norm2 = method.norm(inner, role=grouped)
        self.activation2 = method.activation(inner, role=grouped)
        self.conv3 = method.conv(ConvSpec(inner, out_channels, 1, role=last))
        self.norm3 = method.norm(out_channels, role=last)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            down = role("downsample")
            self.shortcut = nn.Sequential(
                method.conv(ConvSpec(in_channels, out_channels, 1, stride=stride, role=down)),
                method.norm(out_channels, role=down),
            )
        self.activation3 = method.activation(out_channels, role=addition)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.activation2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.activation3(y + self.shortcut(x))


class ResNeXt(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, stages of blocks, global average pooling and a linear classifier. Every stage after
    the first halves the image size and doubles the channels.
    groups: the number of groups of each 3x3 convolution. group_width: channels of a group in the first stage. width:
    channels of the stem.
    """

    def __init__(self, method: Method, channels: int, classes: int, groups: int, group_width: int, width: int):
        super().__init__()
        stem = Role("stem", architecture="resnext", activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 1, role=stem))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        stages, in_channels = [], width
        for stage, count in enumerate(BLOCKS):
            role = functools.partial(Role, stage=stage, last_stage=stage == len(BLOCKS) - 1, architecture="resnext")
            inner, out_channels, layers = groups * group_width * 2**stage, EXPANSION * width * 2**stage, []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Block(method, in_channels, inner, out_channels, stride, groups, role))
                in_channels = out_channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = method.linear(in_channels, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        return self.head(torch.mean(self.stages(y), dim=(2, 3)))


@register_classifier()
def resnext29_2x64d(method: Method, channels: int, classes: int, *, width: int = 64) -> ResNeXt:
    """29 layers in three stages (section 5.3), with 2 groups of `width` channels in the first.

    width: channels of the stem, and of a group in the first stage.
    """
    return ResNeXt(method, channels, classes, 2, width, width)


@register_classifier()
def resnext29_32x4d(method: Method, channels: int, classes: int, *, width: int = 64) -> ResNeXt:
    """29 layers in three stages (section 5.3), with 32 groups of width / 16 channels, at least 1, in the first.

    width: channels of the stem.
    """
    return ResNeXt(method, channels, classes, 32, max(1, width // 16), width)
