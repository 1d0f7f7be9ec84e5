"""Residual networks for images of ImageNet's size, He et al., arXiv 1512.03385, section 4.1 and table 1.

The form of torchvision's `resnet18` to `resnet101`: a 7x7 stem of stride 2 and a max pooling halve the image, each
stage after the first halves it again, and a bottleneck has its stride in the 3x3 convolution (the paper: in the first
1x1). Weights of convolutions are normal with He's variance for the outputs (arXiv 1502.01852). For small images there
are `resnet18` and `resnet34`, whose stem keeps the size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier
from normbench.models.kaiming import KaimingConv

NAME = "imagenet_resnet"  # the architecture in the roles of the layers of a classifier


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, in, H, W) -> (N, expansion * inner, H/stride, W/stride).

    inner: channels of the 3x3 convolutions. dilation: of the first convolution; the second, which is the first one's
    like in all blocks but a stage's first, has `last_dilation`. role: makes the Role of a layer in this stage.
    """

    expansion = 1

    def __init__(
        self,
        method: Method,
        in_channels: int,
        inner: int,
        stride: int,
        dilation: int,
        last_dilation: int,
        role: Callable[..., Role],
    ):
        super().__init__()
        body, last = role("body", activation="relu"), role("body", last_in_block=True)
        self.conv1 = method.conv(three(in_channels, inner, body, stride, dilation))
        self.norm1 = method.norm(inner, role=body)
        self.activation1 = method.activation(inner, role=body)
        self.conv2 = method.conv(three(inner, inner, last, 1, last_dilation))
        self.norm2 = method.norm(inner, role=last)
        self.shortcut = shortcut(method, in_channels, inner, stride, role("downsample"))
        self.activation2 = method.activation(inner, role=role("addition", activation="relu"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation2(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, and a shortcut: (N, in, H, W) -> (N, expansion * inner, H/stride, W/stride).

    inner: channels of the 3x3 convolution, which has the stride and the dilation. role: makes the Role of a layer in
    this stage. last_dilation: of the second 3x3 convolution of a block, which a bottleneck does not have.
    """

    expansion = 4

    def __init__(
        self,
        method: Method,
        in_channels: int,
        inner: int,
        stride: int,
        dilation: int,
        last_dilation: int,
        role: Callable[..., Role],
    ):
        super().__init__()
        body, last = role("body", activation="relu"), role("projection", last_in_block=True)
        out_channels = self.expansion * inner
        self.conv1 = method.conv(KaimingConv(in_channels, inner, 1, body))
        self.norm1 = method.norm(inner, role=body)
        self.activation1 = method.activation(inner, role=body)
        self.conv2 = method.conv(three(inner, inner, body, stride, dilation))
        self.norm2 = method.norm(inner, role=body)
        self.activation2 = method.activation(inner, role=body)
        self.conv3 = method.conv(KaimingConv(inner, out_channels, 1, last))
        self.norm3 = method.norm(out_channels, role=last)
        self.shortcut = shortcut(method, in_channels, out_channels, stride, role("downsample"))
        self.activation3 = method.activation(out_channels, role=role("addition", activation="relu"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.activation2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.activation3(y + self.shortcut(x))


def three(in_channels: int, out_channels: int, role: Role, stride: int, dilation: int) -> ConvSpec:
    """A 3x3 convolution that keeps the image size, but for its stride."""
    return KaimingConv(in_channels, out_channels, 3, role, stride, padding=dilation, dilation=dilation)


def shortcut(method: Method, in_channels: int, out_channels: int, stride: int, role: Role) -> nn.Module:
    """A 1x1 convolution with its norm where a block changes the size or the channels, else nothing."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = KaimingConv(in_channels, out_channels, 1, role, stride)
    return nn.Sequential(method.conv(conv), method.norm(out_channels, role=role))


class Backbone(nn.Module):
    """Images (N, channels, H, W) -> the maps of each stage, a list of (N, out_channels[i], H_i, W_i).

    The maps of the first stage have a quarter of the image's height and width. Each later stage halves them, or, where
    it is dilated, keeps them: its convolutions then see as far as they would otherwise, because the 3x3 kernels of the
    blocks after its first one, and of all later stages, have twice the dilation.
    block: BasicBlock or Bottleneck. blocks: the number of blocks in each stage. width: channels of the stem and of the
    3x3 convolutions of the first stage, which double from stage to stage. architecture: in the roles of the layers.
    dilated: the number of stages at the end that are dilated.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        width: int,
        architecture: str,
        dilated: int = 0,
    ):
        super().__init__()
        stem = Role("stem", architecture=architecture, activation="relu", last_stage=len(blocks) == 1)
        self.conv = method.conv(KaimingConv(channels, width, 7, stem, stride=2, padding=3))
        self.norm = method.norm(width, role=stem)
        self.activation = method.activation(width, role=stem)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, in_channels, dilation = [], width, 1
        for stage, count in enumerate(blocks):
            last_stage = stage == len(blocks) - 1
            role = functools.partial(Role, stage=stage, last_stage=last_stage, architecture=architecture)
            keeps = stage >= len(blocks) - dilated
            before, dilation = dilation, dilation * (2 if keeps else 1)
            inner, layers = width * 2**stage, []
            for index in range(count):
                first = index == 0
                stride = 2 if first and stage > 0 and not keeps else 1
                reach = before if first else dilation
                layers.append(block(method, in_channels, inner, stride, reach, dilation, role))
                in_channels = inner * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.out_channels = [width * 2**stage * block.expansion for stage in range(len(blocks))]

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.pool(self.activation(self.norm(self.conv(x))))
        found = []
        for stage in self.stages:
            y = stage(y)
            found.append(y)
        return found


class ImageNetResNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes): a Backbone, global average pooling and a linear classifier."""

    def __init__(
        self,
        method: Method,
        channels: int,
        classes: int,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        width: int,
    ):
        super().__init__()
        self.backbone = Backbone(method, channels, block, blocks, width, NAME)
        role = Role("head", stage=len(blocks) - 1, last_stage=True, architecture=NAME)
        self.head = method.linear(self.backbone.out_channels[-1], classes, role=role)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


@register_classifier()
def imagenet_resnet18(method: Method, channels: int, classes: int, *, width: int = 64) -> ImageNetResNet:
    """The network of 18 layers (table 1). width: channels of the stem and the first of four stages."""
    return ImageNetResNet(method, channels, classes, BasicBlock, [2, 2, 2, 2], width)


@register_classifier()
def imagenet_resnet34(method: Method, channels: int, classes: int, *, width: int = 64) -> ImageNetResNet:
    """The network of 34 layers (table 1). width: channels of the stem and the first of four stages."""
    return ImageNetResNet(method, channels, classes, BasicBlock, [3, 4, 6, 3], width)


@register_classifier()
def imagenet_resnet50(method: Method, channels: int, classes: int, *, width: int = 64) -> ImageNetResNet:
    """The network of 50 layers (table 1). width: channels of the stem; stages have 4 to 32 times as many."""
    return ImageNetResNet(method, channels, classes, Bottleneck, [3, 4, 6, 3], width)


@register_classifier()
def imagenet_resnet101(method: Method, channels: int, classes: int, *, width: int = 64) -> ImageNetResNet:
    """The network of 101 layers (table 1). width: channels of the stem; stages have 4 to 32 times as many."""
    return ImageNetResNet(method, channels, classes, Bottleneck, [3, 4, 23, 3], width)
