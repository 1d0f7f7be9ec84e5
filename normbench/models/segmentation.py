"""Networks that give each pixel a class: FCN and DeepLabV3 on a ResNet whose last two stages are dilated.

The networks of torchvision 0.20 (`fcn_resnet50`, `deeplabv3_resnet50`), with which Network Deconvolution's experiments
on Cityscapes compare: fully convolutional networks (Long et al., CVPR 2015, arXiv 1411.4038) and DeepLabV3 (Chen et
al., arXiv 1706.05587). The maps of the backbone's last two stages keep the size of the second stage, an eighth of the
image's height and width. Logits are resized to the image bilinearly, with the corners of the corner pixels in the same
place (`align_corners` off). With `aux`, a second FCN head on the stage before the last one helps the training: in
training mode the network returns its logits too, and in evaluation mode the head is not computed.

Weights of the backbone are normal with He's variance for the outputs, those of the heads torch's default.

Network Deconvolution sees one vector for each image in the pooling branch of DeepLabV3, and its statistics of a 1x1
kernel take every ninth vector. So with up to nine images in a batch, those of this branch are those of the first image
alone; its 32 groups of 64 channels are the samples. The authors' network does the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_segmenter
from normbench.models.imagenet_resnet import Backbone, BasicBlock, Bottleneck

NAME = "segmentation"  # the architecture in the roles of all layers
RATES = (12, 24, 36)  # dilations of the 3x3 branches of DeepLabV3
Head = Callable[[Method, int, int, Callable[..., Role]], nn.Module]


class ConvNormReLU(nn.Sequential):
    """A convolution without bias, its norm and ReLU: (N, in, H, W) -> (N, out, H, W). kernel_size: odd."""

    def __init__(
        self,
        method: Method,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        role: Callable[..., Role],
        dilation: int = 1,
    ):
        here = role("body", activation="relu")
        padding = dilation * (kernel_size // 2)
        super().__init__(
            method.conv(ConvSpec(in_channels, out_channels, kernel_size, here, padding=padding, dilation=dilation)),
            method.norm(out_channels, role=here),
            method.activation(out_channels, role=here),
        )


def classifying(method: Method, channels: int, classes: int, role: Callable[..., Role]) -> nn.Module:
    """The 1x1 convolution from maps to logits, with a bias and no norm."""
    return method.conv(ConvSpec(channels, classes, 1, role("classifier")))


class FCNHead(nn.Sequential):
    """Maps (N, channels, H, W) -> logits (N, classes, H, W): a 3x3 convolution to a quarter of the channels, dropout of
    a tenth, and a 1x1 convolution. role: makes the Role of a layer of the head.
    """

    def __init__(self, method: Method, channels: int, classes: int, role: Callable[..., Role]):
        inner = channels // 4
        super().__init__(
            ConvNormReLU(method, channels, inner, 3, role),
            nn.Dropout(0.1),
            classifying(method, inner, classes, role),
        )


class Pooled(nn.Module):
    """What a 1x1 convolution makes of the mean over all pixels, in each pixel: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, method: Method, in_channels: int, out_channels: int, role: Callable[..., Role]):
        super().__init__()
        self.conv = ConvNormReLU(method, in_channels, out_channels, 1, role)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])


class DeepLabHead(nn.Module):
    """Maps (N, channels, H, W) -> logits (N, classes, H, W), by branches that see the maps at several scales.

    The branches are a 1x1 convolution, three 3x3 convolutions with the dilations RATES, and the mean over all pixels,
    each to an eighth of the channels. A 1x1 convolution joins them; dropout of a half, a 3x3 and a 1x1 convolution
    follow. role: makes the Role of a layer of the head.
    """

    def __init__(self, method: Method, channels: int, classes: int, role: Callable[..., Role]):
        super().__init__()
        inner = channels // 8
        self.branches = nn.ModuleList(
            [
                ConvNormReLU(method, channels, inner, 1, role),
                *(ConvNormReLU(method, channels, inner, 3, role, rate) for rate in RATES),
                Pooled(method, channels, inner, role),
            ]
        )
        self.project = ConvNormReLU(method, inner * len(self.branches), inner, 1, role)
        self.dropout = nn.Dropout(0.5)
        self.conv = ConvNormReLU(method, inner, inner, 3, role)
        self.classifier = classifying(method, inner, classes, role)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([branch(x) for branch in self.branches], 1)
        return self.classifier(self.conv(self.dropout(self.project(y))))


class Segmenter(nn.Module):
    """Images (N, channels, H, W) -> logits of their pixels (N, classes, H, W).

    With an auxiliary head it returns two of these in training mode: its own, and those of that head.
    backbone: gives the maps of its stages. head, aux: make the heads; `aux` is None without.
    """

    def __init__(self, method: Method, backbone: Backbone, classes: int, head: Head, aux: Head | None):
        super().__init__()
        last = len(backbone.out_channels) - 1
        role = functools.partial(Role, stage=last, last_stage=True, architecture=NAME)
        before = functools.partial(Role, stage=last - 1, architecture=NAME)
        self.backbone = backbone
        self.head = head(method, backbone.out_channels[last], classes, role)
        self.aux = None if aux is None else aux(method, backbone.out_channels[last - 1], classes, before)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        *_, before, last = self.backbone(x)
        size = x.shape[2:]
        logits = resized(self.head(last), size)
        if self.aux is None or not self.training:
            return logits
        return logits, resized(self.aux(before), size)


@torch.fx.wrap  # A trace cannot tell the dtype.
def resized(logits: Tensor, size: torch.Size) -> Tensor:
    """Logits (N, classes, h, w) at another size (height, width), bilinearly, in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.interpolate(wide, size=size, mode="bilinear", align_corners=False)


def made(
    method: Method,
    channels: int,
    classes: int,
    block: type[BasicBlock] | type[Bottleneck],
    blocks: list[int],
    width: int,
    head: Head,
    aux: bool,
) -> Segmenter:
    """A segmentation network on a ResNet. The arguments are those of Backbone and Segmenter."""
    backbone = Backbone(method, channels, block, blocks, width, NAME, dilated=2)
    return Segmenter(method, backbone, classes, head, FCNHead if aux else None)


@register_segmenter()
def fcn_resnet18(method: Method, channels: int, classes: int, *, width: int = 64, aux: bool = False) -> Segmenter:
    """FCN on a ResNet of 18 layers, for small machines. width: channels of the stem. aux: with an auxiliary head."""
    return made(method, channels, classes, BasicBlock, [2, 2, 2, 2], width, FCNHead, aux)


@register_segmenter()
def fcn_resnet50(method: Method, channels: int, classes: int, *, width: int = 64, aux: bool = False) -> Segmenter:
    """FCN on a ResNet of 50 layers. width: channels of the stem. aux: with an auxiliary head."""
    return made(method, channels, classes, Bottleneck, [3, 4, 6, 3], width, FCNHead, aux)


@register_segmenter()
def deeplabv3_resnet18(method: Method, channels: int, classes: int, *, width: int = 64, aux: bool = False) -> Segmenter:
    """DeepLabV3 on a ResNet of 18 layers, for small machines. width: channels of the stem. aux: with an auxiliary head.

    Its branches have 64 channels each, an eighth of the backbone's as in the network of 50 layers.
    """
    return made(method, channels, classes, BasicBlock, [2, 2, 2, 2], width, DeepLabHead, aux)


@register_segmenter()
def deeplabv3_resnet50(method: Method, channels: int, classes: int, *, width: int = 64, aux: bool = False) -> Segmenter:
    """DeepLabV3 on a ResNet of 50 layers. width: channels of the stem. aux: with an auxiliary head."""
    return made(method, channels, classes, Bottleneck, [3, 4, 6, 3], width, DeepLabHead, aux)
