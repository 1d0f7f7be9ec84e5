"""The multi-layer perceptron of Network Deconvolution's experiments on MNIST and Fashion-MNIST (section 5.1).

784 pixels, two hidden layers of 128 units with the sigmoid, and a linear classifier, as yechengxi/deconvolution has it
at d221c221. A norm of the method stands between each hidden linear layer and its sigmoid; it sees maps of one pixel.
With another width, depth and activation, and without norms, it is that of the curvature certificates of Singla and
Feizi, ICML 2020, arXiv 2006.00731 (singlasahil14/so-robust at ed7560c2): 784-1024-10 with softplus, and up to two more
hidden layers of 1024 units.

Deviations: linear layers have a bias also in front of a norm, and deconvolution is that of its linear layer, where the
authors' network has a whitening of activations in front of a plain linear layer.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from normbench.functional.pooling import AveragePool
from normbench.methods.base import Method, Role
from normbench.models.activations import Activation, after_no_norm
from normbench.models.base import register_classifier


class MLP(nn.Module):
    """Images (N, channels, H, W) -> logits (N, classes).

    side: pixels a side that the first layer takes; images of another size are averaged to it. width: units of a hidden
    layer. depth: the number of hidden layers. activation: a key of ACTIVATIONS. norms: whether a norm of the method
    stands in front of each activation.
    """

    def __init__(
        self,
        method: Method,
        channels: int,
        classes: int,
        side: int,
        width: int,
        depth: int,
        activation: str = "sigmoid",
        norms: bool = True,
    ):
        super().__init__()
        self.pool, features = AveragePool(side), channels * side**2
        layers: list[nn.Module] = []
        for stage in range(depth):
            here = Role("body", stage, last_stage=stage == depth - 1, architecture="mlp", activation=activation)
            last = dataclasses.replace(here, last_in_block=True)
            layers += [
                method.linear(features, width, role=here),
                nn.Unflatten(1, (width, 1, 1)),
                method.norm(width, role=last) if norms else nn.Identity(),
                method.activation(width, role=last) if norms else after_no_norm(method, width, last),
                nn.Flatten(),
            ]
            features = width
        self.layers = nn.Sequential(*layers)
        self.head = method.linear(features, classes, role=Role("head", depth - 1, True, architecture="mlp"))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.pool(x).flatten(1)))


@register_classifier()
def mlp(
    method: Method,
    channels: int,
    classes: int,
    *,
    side: int = 28,
    width: int = 128,
    depth: int = 2,
    activation: Activation = "sigmoid",
    norms: bool = True,
) -> MLP:
    """Three linear layers and two activations.

    side: pixels a side. width: units a hidden layer. depth: hidden layers. activation: after each of these. norms:
    whether the method's norm stands in front of each activation.
    """
    return MLP(method, channels, classes, side, width, depth, activation, norms)
