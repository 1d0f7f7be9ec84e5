"""DenseNet-BC for images of ImageNet's size, Huang et al., arXiv 1608.06993, table 1.

The form of torchvision's `densenet121`: a 7x7 stem of stride 2, with its norm and a max pooling, in front of the stages
of `densenet121`, which is for small images; a layer adds 32 channels after those that it is given. There is no dropout.
Weights of convolutions are normal with He's variance for the inputs (arXiv 1502.01852), and the biases of the
classifier are 0; a method that draws its own keeps to them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor, nn

from normbench.methods.base import Method, Role
from normbench.models.base import register_classifier
from normbench.models.densenet import DenseLayer, Transition
from normbench.models.kaiming import KaimingConv

LEAST_SIZE = 29  # pixels a side; stem and pooling make 8 of them, and three transitions 1


class ImageNetDenseNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    The network consists of a stem with max pooling, stages of dense layers with transitions between them, norm, ReLU,
    global average pooling and a linear classifier. A transition counts as part of the stage before it.
    blocks: the number of dense layers in each stage. growth: the channels that each layer appends; the stem has twice
    as many.
    """

    def __init__(self, method: Method, channels: int, classes: int, blocks: Sequence[int], growth: int):
        super().__init__()
        features, layers = 2 * growth, []
        base = functools.partial(Role, architecture="imagenet_densenet")
        spec = functools.partial(KaimingConv, mode="fan_in")
        stem = base("stem", last_stage=len(blocks) == 1, activation="relu")
        self.stem = nn.Sequential(
            method.conv(spec(channels, features, 7, stem, stride=2, padding=3)),
            method.norm(features, role=stem),
            method.activation(features, role=stem),
            nn.MaxPool2d(3, 2, 1),
        )
        for stage, count in enumerate(blocks):
            last_stage = stage == len(blocks) - 1
            role = functools.partial(base, stage=stage, last_stage=last_stage)
            stage_layers: list[nn.Module] = []
            for _ in range(count):
                stage_layers.append(DenseLayer(method, features, growth, role, spec=spec))
                features += growth
            if not last_stage:
                stage_layers.append(Transition(method, features, role("body", activation="relu"), spec))
                features //= 2
            layers.append(nn.Sequential(*stage_layers))
        self.stages = nn.Sequential(*layers)
        last = role("body", activation="relu")
        self.norm = method.norm(features, role=last)
        self.activation = method.activation(features, role=last)
        self.head = method.linear(features, classes, role=role("head"))
        if type(self.head) is nn.Linear:
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.stages(self.stem(x))))
        return self.head(y.mean((2, 3)))


@register_classifier(least_size=LEAST_SIZE)
def imagenet_densenet121(method: Method, channels: int, classes: int, *, growth: int = 32) -> ImageNetDenseNet:
    """DenseNet-BC of 121 layers in four stages (table 1). growth: channels that each layer appends."""
    return ImageNetDenseNet(method, channels, classes, [6, 12, 24, 16], growth)
