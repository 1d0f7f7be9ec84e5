"""VGG, Simonyan and Zisserman, arXiv 1409.1556, in the usual form for 32x32 images: one linear layer, no dropout."""

from __future__ import annotations

import dataclasses
import functools

from torch import Tensor, nn

from normbench.methods.base import Method, Role

IMAGE_SIZE = (32, 1)  # least size, and what it must be divisible by
# convolutions a stage; a max-pooling halves the image after each stage
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Images (N, channels, H, W), H and W at least 32, to logits (N, classes); widths double up to 8 * width."""

    def __init__(self, method: Method, channels: int, classes: int, depth: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        role = functools.partial(Role, architecture="vgg")
        in_channels = channels
        for stage, count in enumerate(STAGES[depth]):
            out_channels = width * min(2**stage, 8)
            for index in range(count):
                place = "stem" if stage == 0 and index == 0 else "body"
                here = role(place, stage, last_stage=stage == len(STAGES[depth]) - 1)
                layers += [
                    method.conv(in_channels, out_channels, 3, padding=1, role=here),
                    method.norm(out_channels, role=dataclasses.replace(here, last_in_block=index == count - 1)),
                    nn.ReLU(inplace=True),
                ]
                in_channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = method.linear(in_channels, classes, role=role("head", len(STAGES[depth]) - 1, last_stage=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def vgg11(method: Method, channels: int, classes: int, *, width: int = 64) -> VGG:
    return VGG(method, channels, classes, 11, width)


def vgg13(method: Method, channels: int, classes: int, *, width: int = 64) -> VGG:
    return VGG(method, channels, classes, 13, width)


def vgg16(method: Method, channels: int, classes: int, *, width: int = 64) -> VGG:
    return VGG(method, channels, classes, 16, width)


def vgg19(method: Method, channels: int, classes: int, *, width: int = 64) -> VGG:
    return VGG(method, channels, classes, 19, width)
