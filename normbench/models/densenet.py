"""DenseNet-BC for small images, Huang et al., arXiv 1608.06993.

`densenet100` is the paper's CIFAR network of 100 layers. `densenet121` is its ImageNet network with the stem that is
usual at 32x32: 3x3, stride 1, no pooling. Both add 12 channels per layer, as the paper's CIFAR networks do. The paper's
ImageNet networks, and the DenseNet-121 that Network Deconvolution uses on CIFAR, add 32. There is no dropout.

A layer appends its channels after those that it is given. With `authors_form` it puts them in front, as the code of
Network Deconvolution does (yechengxi/deconvolution at d221c221). Batch norm does not see the difference; deconvolution
does, as it decides which channels are whitened together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

BOTTLENECK = 4  # output channels of the 1x1 convolution of a layer, as a multiple of `growth`
LEAST_SIZE = 8  # pixels a side; three transitions halve them to 1


class DenseLayer(nn.Module):
    """Appends `growth` channels, computed by a 1x1 and a 3x3 convolution: (N, in, H, W) -> (N, in + growth, H, W).

    role: makes the Role of a layer in this stage. in_front: whether the new channels come before the given ones. spec:
    describes its convolutions, with the arguments of ConvSpec.
    """

    def __init__(
        self,
        method: Method,
        in_channels: int,
        growth: int,
        role: Callable[..., Role],
        in_front: bool = False,
        spec: Callable[..., ConvSpec] = ConvSpec,
    ):
        super().__init__()
        self.in_front = in_front
        body, inner = role("body", activation="relu"), BOTTLENECK * growth
        last = role("body", last_in_block=True, activation="relu")
        self.norm1 = method.norm(in_channels, role=body)
        self.activation1 = method.activation(in_channels, role=body)
        self.conv1 = method.conv(spec(in_channels, inner, 1, role=body))
        self.norm2 = method.norm(inner, role=last)
        self.activation2 = method.activation(inner, role=last)
        self.conv2 = method.conv(spec(inner, growth, 3, padding=1, role=body))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation1(self.norm1(x)))
        y = self.conv2(self.activation2(self.norm2(y)))
        return torch.cat([y, x] if self.in_front else [x, y], dim=1)


class Transition(nn.Module):
    """Halves the channels and the image size between two stages: (N, in, H, W) -> (N, in // 2, H/2, W/2).

    spec: describes its convolution, with the arguments of ConvSpec.
    """

    def __init__(self, method: Method, in_channels: int, role: Role, spec: Callable[..., ConvSpec] = ConvSpec):
        super().__init__()
        self.norm = method.norm(in_channels, role=role)
        self.activation = method.activation(in_channels, role=role)
        self.conv = method.conv(spec(in_channels, in_channels // 2, 1, role=role))

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.conv(self.activation(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem, stages of dense layers with transitions between them, norm, ReLU, global average
    pooling and a linear classifier. A transition counts as part of the stage before it.
    blocks: the number of dense layers in each stage. growth: the channels that each layer appends. in_front:
    whether it puts them in front.
    """

    def __init__(
        self, method: Method, channels: int, classes: int, blocks: Sequence[int], growth: int, in_front: bool = False
    ):
        super().__init__()
        features, layers = 2 * growth, []
        stem = Role("stem", last_stage=len(blocks) == 1, architecture="densenet")
        self.conv = method.conv(ConvSpec(channels, features, 3, padding=1, role=stem))
        for stage, count in enumerate(blocks):
            last_stage = stage == len(blocks) - 1
            role = functools.partial(Role, stage=stage, last_stage=last_stage, architecture="densenet")
            stage_layers: list[nn.Module] = []
            for _ in range(count):
                stage_layers.append(DenseLayer(method, features, growth, role, in_front))
                features += growth
            if not last_stage:
                stage_layers.append(Transition(method, features, role("body", activation="relu")))
                features //= 2
            layers.append(nn.Sequential(*stage_layers))
        self.stages = nn.Sequential(*layers)
        last = role("body", activation="relu")
        self.norm = method.norm(features, role=last)
        self.activation = method.activation(features, role=last)
        self.head = method.linear(features, classes, role=role("head"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.stages(self.conv(x))))
        return self.head(torch.mean(y, dim=(2, 3)))


@register_classifier(least_size=LEAST_SIZE)
def densenet100(
    method: Method, channels: int, classes: int, *, growth: int = 12, authors_form: bool = False
) -> DenseNet:
    """DenseNet-BC of 100 layers in three stages, for CIFAR (section 3).

    growth: channels that each layer appends. authors_form: see the top of this file.
    """
    return DenseNet(method, channels, classes, [16, 16, 16], growth, authors_form)


@register_classifier(least_size=LEAST_SIZE)
def densenet121(
    method: Method, channels: int, classes: int, *, growth: int = 12, authors_form: bool = False
) -> DenseNet:
    """DenseNet-BC of 121 layers in four stages, for ImageNet (table 1).

    growth: channels that each layer appends. authors_form: see the top of this file.
    """
    return DenseNet(method, channels, classes, [6, 12, 24, 16], growth, authors_form)
