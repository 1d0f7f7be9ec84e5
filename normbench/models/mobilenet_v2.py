"""MobileNetV2, Sandler et al., arXiv 1801.04381, in the usual form for 32x32 images, which it halves three times.

The paper's strides of 2 in the stem and in the blocks of 24 channels are 1 here. Further deviations, shared with common
implementations and with the networks of Network Deconvolution: ReLU instead of ReLU6; the first block also has a 1x1
expansion, with a factor of 1; blocks of stride 1 that change the number of channels have a shortcut, a 1x1 convolution,
where the paper has none; no dropout. `width` scales all layers, including the last convolution, which the paper never
makes narrower.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

# Rows of table 2: expansion factor, output channels at a width of 32, number of blocks, stride of the first block.
ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
WIDTH, LAST = 32, 1280


class Block(nn.Module):
    """1x1 expansion, depth-wise 3x3 and linear 1x1 projection: (N, in, H, W) -> (N, out, H/stride, W/stride).

    There is a shortcut if the stride is 1, and no activation after the addition. expansion: the factor by which the 1x1
    expansion multiplies the channels. role: makes the Role of a layer in this stage.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: int,
        role: Callable[..., Role],
    ):
        super().__init__()
        inner = expansion * in_channels
        body, depthwise = role("body", activation="relu"), role("depthwise", activation="relu")
        last = role("projection", last_in_block=stride == 1, expansion=expansion)
        self.conv1 = method.conv(ConvSpec(in_channels, inner, 1, role=body))
        self.norm1 = method.norm(inner, role=body)
        self.activation1 = method.activation(inner, role=body)
        self.conv2 = method.conv(ConvSpec(inner, inner, 3, stride=stride, padding=1, groups=inner, role=depthwise))
        self.norm2 = method.norm(inner, role=depthwise)
        self.activation2 = method.activation(inner, role=depthwise)
        self.conv3 = method.conv(ConvSpec(inner, out_channels, 1, role=last))
        self.norm3 = method.norm(out_channels, role=last)
        self.shortcut: nn.Module | None = nn.Identity() if stride == 1 else None
        if stride == 1 and in_channels != out_channels:
            down = role("downsample")
            self.shortcut = nn.Sequential(
                method.conv(ConvSpec(in_channels, out_channels, 1, role=down)),
                method.norm(out_channels, role=down),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.activation2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return y if self.shortcut is None else y + self.shortcut(x)


class MobileNetV2(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, blocks, a 1x1 convolution, global average pooling and a linear classifier. A block
    of stride 2 starts a new stage. width: channels of the stem.
    """

    def __init__(self, method: Method, channels: int, classes: int, width: int):
        super().__init__()
        stages = sum(stride == 2 for *_, stride in ROWS) + 1
        stem = Role("stem", architecture="mobilenet_v2", activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=stem))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        layers, in_channels, stage = [], width, 0
        for expansion, wide, count, first_stride in ROWS:
            stage += first_stride == 2
            role = functools.partial(Role, stage=stage, last_stage=stage == stages - 1, architecture="mobilenet_v2")
            out_channels = scaled(wide, width)
            for index in range(count):
                stride = first_stride if index == 0 else 1
                layers.append(Block(method, in_channels, out_channels, expansion, stride, role))
                in_channels = out_channels
        self.blocks = nn.Sequential(*layers)
        features, body = scaled(LAST, width), role("body", activation="relu")
        self.last_conv = method.conv(ConvSpec(in_channels, features, 1, role=body))
        self.last_norm = method.norm(features, role=body)
        self.last_activation = method.activation(features, role=body)
        self.head = method.linear(features, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        y = self.last_activation(self.last_norm(self.last_conv(self.blocks(y))))
        return self.head(torch.mean(y, dim=(2, 3)))


def scaled(channels: int, width: int) -> int:
    """The number of channels of a layer that has `channels` at the default width, at least 1."""
    return max(1, channels * width // WIDTH)


@register_classifier()
def mobilenet_v2(method: Method, channels: int, classes: int, *, width: int = 32) -> MobileNetV2:
    """The network of table 2: 17 blocks, here of three convolutions each. width: channels of the stem."""
    return MobileNetV2(method, channels, classes, width)
