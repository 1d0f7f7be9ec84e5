"""LeNet-5, LeCun et al., 1998, in the form that is usual at 32x32: ReLU, max pooling, and three linear layers.

The network is that of amazon-science/network-deconvolution-pp at 3d796af5. It has no norms there, which is how the
method `no_norm` builds it; other methods put their norm after each of its two convolutions.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.pooling import AveragePool
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

LEAST_SIZE = 16  # pixels a side: two convolutions without padding and two poolings leave one
SIDE = 5  # pixels a side in front of the linear layers; 32x32 images have as many, others are averaged to as many


class LeNet(nn.Module):
    """Images (N, channels, H, W), with H and W at least 16, -> logits (N, classes). width: channels of the stem."""

    def __init__(self, method: Method, channels: int, classes: int, width: int):
        super().__init__()
        sizes = (channels, width, width * 16 // 6)
        layers: list[nn.Module] = []
        for stage, place in enumerate(("stem", "body")):
            here = Role(place, stage, last_stage=stage == 1, architecture="lenet", activation="relu")
            last = dataclasses.replace(here, last_in_block=True)
            layers += [
                method.conv(ConvSpec(sizes[stage], sizes[stage + 1], 5, role=here, bias=True)),
                method.norm(sizes[stage + 1], role=last),
                method.activation(sizes[stage + 1], role=last),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers, AveragePool(SIDE), nn.Flatten())
        features, inner = sizes[2] * SIDE**2, (width * 20, width * 14)
        body, head = (Role(place, 1, True, architecture="lenet") for place in ("body", "head"))
        self.linear1 = method.linear(features, inner[0], role=body)
        self.linear2 = method.linear(inner[0], inner[1], role=body)
        self.head = method.linear(inner[1], classes, role=head)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.linear1(self.features(x)))
        return self.head(functional.relu(self.linear2(y)))


@register_classifier(least_size=LEAST_SIZE)
def lenet(method: Method, channels: int, classes: int, *, width: int = 6) -> LeNet:
    """Two 5x5 convolutions and three linear layers (figure 2). width: channels of the first convolution."""
    return LeNet(method, channels, classes, width)
