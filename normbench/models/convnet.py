"""A plain network of convolutions and linear layers, as the literature on certified robustness has them.

The "large" network of Wong et al., NeurIPS 2018, arXiv 1805.12514, also called 4C3F: four convolutions, of which every
second one has stride 2, and three linear layers. Its form with 3x3 kernels throughout, 32, 32, 64 and 64 channels and
512 hidden units is that of the networks of orthogonal layers in Trockman and Kolter, ICLR 2021 (`KWLarge` in
locuslab/orthogonal-convolutions at 543b0aad). There is no shortcut and no pooling of overlapping windows, and each
layer has a bound on its Lipschitz constant, so that their product bounds the network.

These networks have no norms: `norms: false` leaves them out whatever the method is, so that its penalty or constraint
is all that is added. Deviation: maps are averaged to a given number of pixels in front of the linear layers, because a
network here takes images of any size; where they have as many already, nothing happens.
"""

from __future__ import annotations

import dataclasses
import functools

from torch import Tensor, nn

from normbench.functional.pooling import AveragePool
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.activations import Activation, after_no_norm
from normbench.models.base import register_classifier


class ConvNet(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    width: channels of the first two convolutions, which double for each two more. depth: the number of convolutions.
    side: pixels a side in front of the linear layers. hidden, linears: units and number of the hidden linear layers.
    activation: a key of ACTIVATIONS. norms: whether each convolution has a norm of the method; without, it has a bias.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        classes: int,
        *,
        width: int,
        depth: int,
        side: int,
        hidden: int,
        linears: int,
        activation: str,
        norms: bool,
    ):
        super().__init__()
        stages = depth // 2
        role = functools.partial(Role, architecture="convnet", activation=activation)
        layers: list[nn.Module] = []
        for index in range(depth):
            stage, made = (index + 1) // 2, width * 2 ** (index // 2)
            here = role("body" if index else "stem", stage, last_stage=stage == stages)
            last = dataclasses.replace(here, last_in_block=index % 2 == 0 or index == depth - 1)
            spec = ConvSpec(channels, made, 3, stride=1 + index % 2, padding=1, role=here, bias=not norms)
            layers += [method.conv(spec), method.norm(made, role=last) if norms else nn.Identity()]
            layers += [method.activation(made, role=last) if norms else after_no_norm(method, made, last)]
            channels = made
        self.features = nn.Sequential(*layers, AveragePool(side), nn.Flatten())
        units, body = channels * side**2, role("body", stages, last_stage=True)
        inner: list[nn.Module] = []
        for _ in range(linears):
            inner += [
                method.linear(units, hidden, role=body),
                nn.Unflatten(1, (hidden, 1, 1)),
                after_no_norm(method, hidden, body),
                nn.Flatten(),
            ]
            units = hidden
        self.hidden = nn.Sequential(*inner)
        self.head = method.linear(units, classes, role=Role("head", stages, True, architecture="convnet"))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x)))


@register_classifier()
def convnet(
    method: Method,
    channels: int,
    classes: int,
    *,
    width: int = 32,
    depth: int = 4,
    side: int = 7,
    hidden: int = 512,
    linears: int = 2,
    activation: Activation = "relu",
    norms: bool = True,
) -> ConvNet:
    """Four 3x3 convolutions and three linear layers.

    width: channels of the first two convolutions. depth: convolutions, every second one of stride 2. side: pixels a
    side in front of the linear layers; after four convolutions, 28x28 pixels have become 7x7, and 32x32 pixels 8x8.
    hidden: units of each hidden linear layer. linears: hidden linear layers. activation: after all of these. norms:
    whether the method's norm stands after each convolution.
    """
    return ConvNet(
        method,
        channels,
        classes,
        width=width,
        depth=depth,
        side=side,
        hidden=hidden,
        linears=linears,
        activation=activation,
        norms=norms,
    )
