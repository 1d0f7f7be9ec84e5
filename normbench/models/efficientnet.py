"""EfficientNet-B0 for small images, Tan and Le, arXiv 1905.11946, as Network Deconvolution's experiments have it.

It is the network of yechengxi/deconvolution at d221c221, with a stem of stride 1. Deviations of that code from the
paper, kept here: ReLU instead of swish; all depth-wise kernels are 3x3; the gate of squeeze-and-excitation scales the
output of a block, not that of its depth-wise convolution, and has a sixteenth of its channels between its layers; a
block of stride 1 that changes the number of channels has a 1x1 convolution as its shortcut, and one of stride 2 adds
its output without the gate to its output with it; there are no last 1x1 convolution, dropout and dropped paths.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier
from normbench.models.senet import Gate

# Rows of table 1: expansion factor, output channels at a width of 32, number of blocks, stride of the first block.
ROWS = ((1, 16, 1, 2), (6, 24, 2, 1), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 2))
WIDTH = 32


class Block(nn.Module):
    """1x1 expansion, depth-wise 3x3, linear 1x1 projection and a gate: (N, in, H, W) -> (N, out, H/stride, W/stride).

    There is no activation after the addition. expansion: the factor by which the 1x1 expansion multiplies the channels.
    role: makes the Role of a layer in this stage.
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
        self.gate = Gate(method, out_channels, role)
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
        return self.gate(y) + (y if self.shortcut is None else self.shortcut(x))


class EfficientNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, blocks, global average pooling, which keeps the one pixel that remains of 32x32, and
    a linear classifier. A block of stride 2 starts a new stage. width: channels of the stem. blocks: the method of the
    blocks' layers.
    """

    def __init__(self, method: Method, channels: int, classes: int, width: int, blocks: Method):
        super().__init__()
        stages = sum(stride == 2 for *_, stride in ROWS) + 1
        stem = Role("stem", architecture="efficientnet", activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=stem))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        layers, in_channels, stage = [], width, 0
        for expansion, wide, count, first_stride in ROWS:
            stage += first_stride == 2
            role = functools.partial(Role, stage=stage, last_stage=stage == stages - 1, architecture="efficientnet")
            out_channels = max(1, wide * width // WIDTH)
            for index in range(count):
                stride = first_stride if index == 0 else 1
                layers.append(Block(blocks, in_channels, out_channels, expansion, stride, role))
                in_channels = out_channels
        self.blocks = nn.Sequential(*layers)
        self.head = method.linear(in_channels, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.activation(self.norm(self.conv(x))))
        return self.head(torch.mean(y, dim=(2, 3)))


@register_classifier()
def efficientnet_b0(
    method: Method, channels: int, classes: int, *, width: int = WIDTH, authors_form: bool = False
) -> EfficientNet:
    """The network of table 1: 16 blocks. width: channels of the stem.

    authors_form: the blocks have plain convolutions and batch norms, whatever the method is. The authors' code builds
    them so, and its published numbers of deconvolution are of a network in which only stem and classifier have it.
    """
    return EfficientNet(method, channels, classes, width, Method() if authors_form else method)
