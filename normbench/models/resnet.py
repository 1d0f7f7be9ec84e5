"""Residual networks for small images, He et al., arXiv 1512.03385.

`resnet8` to `resnet110` are the CIFAR networks of section 4.2, with three stages of n blocks and 6n + 2 layers.
Shortcuts that change the size are 1x1 convolutions (option B), so that the benchmark also covers how a method treats
them; the paper's CIFAR networks have parameter-free shortcuts (option A). `resnet18` and `resnet34` are the ImageNet
networks of section 4.1, table 1, with the stem that is usual at 32x32: 3x3, stride 1, no pooling.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, method: Method, in_channels: int, out_channels: int, stride: int, stage: int, last_stage: bool):
        super().__init__()
        role = functools.partial(Role, stage=stage, last_stage=last_stage, architecture="resnet")
        body, last, addition = (
            role("body", activation="relu"),
            role("body", last_in_block=True),
            role("addition", activation="relu"),
        )
        self.conv1 = method.conv(ConvSpec(in_channels, out_channels, 3, stride=stride, padding=1, role=body))
        self.norm1 = method.norm(out_channels, role=body)
        self.activation1 = method.activation(out_channels, role=body)
        self.conv2 = method.conv(ConvSpec(out_channels, out_channels, 3, padding=1, role=last))
        self.norm2 = method.norm(out_channels, role=last)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            down = role("downsample")
            self.shortcut = nn.Sequential(
                method.conv(ConvSpec(in_channels, out_channels, 1, stride=stride, role=down)),
                method.norm(out_channels, role=down),
            )
        self.activation2 = method.activation(out_channels, role=addition)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation2(y + self.shortcut(x))


class ResNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, stages of blocks, global average pooling and a linear classifier. Every stage after
    the first halves the image size and doubles the channels.
    blocks: the number of blocks in each stage. width: channels of the stem and of the first stage.
    """

    def __init__(self, method: Method, channels: int, classes: int, blocks: Sequence[int], width: int):
        super().__init__()
        role = functools.partial(Role, architecture="resnet")
        stem = role("stem", last_stage=len(blocks) == 1, activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=stem))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        stages, in_channels = [], width
        for stage, count in enumerate(blocks):
            out_channels, layers = width * 2**stage, []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Block(method, in_channels, out_channels, stride, stage, stage == len(blocks) - 1))
                in_channels = out_channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = method.linear(in_channels, classes, role=role("head", stage=len(blocks) - 1, last_stage=True))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        return self.head(torch.mean(self.stages(y), dim=(2, 3)))


@register_classifier()
def resnet8(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """A network of 8 layers like those of section 4.2, which begin at 20. width: channels of the first stage."""
    return ResNet(method, channels, classes, [1, 1, 1], width)


@register_classifier()
def resnet20(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """The network of 20 layers for CIFAR (section 4.2). width: channels of the first of three stages."""
    return ResNet(method, channels, classes, [3, 3, 3], width)


@register_classifier()
def resnet32(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """The network of 32 layers for CIFAR (section 4.2). width: channels of the first of three stages."""
    return ResNet(method, channels, classes, [5, 5, 5], width)


@register_classifier()
def resnet44(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """The network of 44 layers for CIFAR (section 4.2). width: channels of the first of three stages."""
    return ResNet(method, channels, classes, [7, 7, 7], width)


@register_classifier()
def resnet56(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """The network of 56 layers for CIFAR (section 4.2). width: channels of the first of three stages."""
    return ResNet(method, channels, classes, [9, 9, 9], width)


@register_classifier()
def resnet110(method: Method, channels: int, classes: int, *, width: int = 16) -> ResNet:
    """The network of 110 layers for CIFAR (section 4.2). width: channels of the first of three stages."""
    return ResNet(method, channels, classes, [18, 18, 18], width)


@register_classifier()
def resnet18(method: Method, channels: int, classes: int, *, width: int = 64) -> ResNet:
    """The network of 18 layers for ImageNet (table 1). width: channels of the first of four stages."""
    return ResNet(method, channels, classes, [2, 2, 2, 2], width)


@register_classifier()
def resnet34(method: Method, channels: int, classes: int, *, width: int = 64) -> ResNet:
    """The network of 34 layers for ImageNet (table 1). width: channels of the first of four stages."""
    return ResNet(method, channels, classes, [3, 4, 6, 3], width)
