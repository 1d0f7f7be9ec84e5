"""VGG for images of ImageNet's size, Simonyan and Zisserman, arXiv 1409.1556, with its three linear layers.

Configuration A of table 1 in the form of torchvision's `vgg11_bn`: convolutions have biases, also in front of norms,
maps are averaged to 7x7 pixels in front of the linear layers, and each hidden one has a ReLU and dropout of a half
behind it and no norm. Weights of convolutions are normal with He's variance for the outputs (arXiv 1502.01852), those
of linear layers with a deviation of 0.01, and biases are 0; a method that draws its own keeps to them. For small images
there is `vgg11`, with one linear layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normbench.functional.pooling import AveragePool
from normbench.methods.base import Method, Role
from normbench.models.activations import after_no_norm
from normbench.models.base import register_classifier
from normbench.models.kaiming import KaimingConv

SIDE = 7  # pixels a side in front of the linear layers
HIDDEN = 64  # units of each hidden linear layer, as a multiple of the channels of the first stage
DEVIATION = 0.01  # of the initial weights of linear layers


@torch.no_grad()
def redrawn(layer: nn.Module) -> nn.Module:
    """The layer; a plain linear one has normal weights of deviation DEVIATION and biases of 0."""
    if type(layer) is nn.Linear:
        nn.init.normal_(layer.weight, std=DEVIATION)
        nn.init.zeros_(layer.bias)
    return layer


class ImageNetVGG(nn.Module):
    """Images (N, channels, H, W), with H and W at least 32, -> logits (N, classes).

    stages: the number of convolutions in each stage; max pooling after each stage halves the image size. width:
    channels of the first stage, which double from stage to stage up to 8 * width; hidden linear layers have 64 * width.
    """

    def __init__(self, method: Method, channels: int, classes: int, stages: Sequence[int], width: int):
        super().__init__()
        layers: list[nn.Module] = []
        role = functools.partial(Role, architecture="imagenet_vgg")
        for stage, count in enumerate(stages):
            out_channels = width * min(2**stage, 8)
            for index in range(count):
                place = "stem" if stage == 0 and index == 0 else "body"
                here = role(place, stage, last_stage=stage == len(stages) - 1, activation="relu")
                last = dataclasses.replace(here, last_in_block=index == count - 1)
                layers += [
                    method.conv(KaimingConv(channels, out_channels, 3, here, padding=1, bias=True)),
                    method.norm(out_channels, role=last),
                    method.activation(out_channels, role=last),
                ]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, AveragePool(SIDE), nn.Flatten())
        end = functools.partial(role, stage=len(stages) - 1, last_stage=True)
        body, units = end("body", activation="relu"), channels * SIDE**2
        hidden: list[nn.Module] = []
        for _ in range(2):
            hidden += [
                redrawn(method.linear(units, HIDDEN * width, role=body)),
                nn.Unflatten(1, (HIDDEN * width, 1, 1)),
                after_no_norm(method, HIDDEN * width, body),
                nn.Flatten(),
                nn.Dropout(0.5),
            ]
            units = HIDDEN * width
        self.hidden = nn.Sequential(*hidden)
        self.head = redrawn(method.linear(units, classes, role=end("head")))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x)))


@register_classifier(least_size=32)
def imagenet_vgg11(method: Method, channels: int, classes: int, *, width: int = 64) -> ImageNetVGG:
    """Configuration A of table 1: 8 convolutions and 3 linear layers. width: channels of the first stage."""
    return ImageNetVGG(method, channels, classes, [1, 1, 2, 2, 2], width)
