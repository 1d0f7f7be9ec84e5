"""VGG, Simonyan and Zisserman, arXiv 1409.1556, in the usual form for 32x32 images.

It has a single linear layer after global average pooling, and no dropout. With `authors_form`, convolutions have biases
in front of batch norms, as in the code of Network Deconvolution (yechengxi/deconvolution at d221c221). In training a
batch norm removes them; in evaluation they count as far as its running mean lags behind. By default there are none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

LEAST_SIZE = 32  # pixels a side; five poolings halve them to 1


class VGG(nn.Module):
    """Images (N, channels, H, W), with H and W at least 32, -> logits (N, classes).

    stages: the number of convolutions in each stage; max pooling after each stage halves the image size. width:
    channels of the first stage, which double from stage to stage up to 8 * width. biases: whether convolutions have
    biases in front of a norm.
    """

    def __init__(
        self, method: Method, channels: int, classes: int, stages: Sequence[int], width: int, biases: bool = False
    ):
        super().__init__()
        layers: list[nn.Module] = []
        role = functools.partial(Role, architecture="vgg")
        in_channels = channels
        for stage, count in enumerate(stages):
            out_channels = width * min(2**stage, 8)
            for index in range(count):
                place = "stem" if stage == 0 and index == 0 else "body"
                here = role(place, stage, last_stage=stage == len(stages) - 1, activation="relu")
                last = dataclasses.replace(here, last_in_block=index == count - 1)
                layers += [
                    method.conv(ConvSpec(in_channels, out_channels, 3, padding=1, role=here, bias=biases)),
                    method.norm(out_channels, role=last),
                    method.activation(out_channels, role=last),
                ]
                in_channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = method.linear(in_channels, classes, role=role("head", len(stages) - 1, last_stage=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@register_classifier(least_size=LEAST_SIZE)
def vgg11(method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False) -> VGG:
    """Configuration A of table 1: 8 convolutions (section 2.1).

    width: channels of the first stage. authors_form: see the top of this file.
    """
    return VGG(method, channels, classes, [1, 1, 2, 2, 2], width, authors_form)


@register_classifier(least_size=LEAST_SIZE)
def vgg13(method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False) -> VGG:
    """Configuration B of table 1: 10 convolutions (section 2.1).

    width: channels of the first stage. authors_form: see the top of this file.
    """
    return VGG(method, channels, classes, [2, 2, 2, 2, 2], width, authors_form)


@register_classifier(least_size=LEAST_SIZE)
def vgg16(method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False) -> VGG:
    """Configuration D of table 1: 13 convolutions (section 2.1).

    width: channels of the first stage. authors_form: see the top of this file.
    """
    return VGG(method, channels, classes, [2, 2, 3, 3, 3], width, authors_form)


@register_classifier(least_size=LEAST_SIZE)
def vgg19(method: Method, channels: int, classes: int, *, width: int = 64, authors_form: bool = False) -> VGG:
    """Configuration E of table 1: 16 convolutions (section 2.1).

    width: channels of the first stage. authors_form: see the top of this file.
    """
    return VGG(method, channels, classes, [2, 2, 4, 4, 4], width, authors_form)
