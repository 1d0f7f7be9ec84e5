"""Fixup, Zhang, Dauphin and Ma, arXiv 1901.09321: residual networks without normalization, by their initialization.

After the authors' code (hongyi-zhang/Fixup at f3fa449f) for networks of the CIFAR kind. Deviations: a shortcut that
changes size or channels is the network's own 1x1 convolution, drawn as in the authors' ImageNet networks, where their
CIFAR networks take every second pixel and fill up with zeros; it has a scalar bias of its own in front. Without
residual branches (VGG, DenseNet) there is nothing to divide, and deep networks may explode.

Under autocast the scalars are used in the precision of the activations, as the weights of a convolution are; in float32
they would turn all that follows into float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.methods.base import ConvSpec, Method, Positive, Role


class ScalarBias(nn.Module):
    """x + bias, with one learned number for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class ScalarAffine(nn.Module):
    """x * scale + bias, with one learned number each for all channels: the end of a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.bias.to(x.dtype)


class BiasedConv2d(nn.Module):
    """Adds a scalar bias and then convolves. role: the layer's role, on which its initialization depends."""

    def __init__(self, layer: nn.Conv2d, role: Role):
        super().__init__()
        self.shift, self.layer, self.role = ScalarBias(), layer, role

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.shift(x))


def classifier(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer that gives the logits, set to 0, with a scalar bias in front of it."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return nn.Sequential(ScalarBias(), layer)


@dataclass(frozen=True)
class Fixup(Method):
    """Scalar biases and scales take the place of norms, and the initial weights keep deep residual networks stable.

    lr_factor: the factor on the learning rate of the scalar biases and scales (0.1 in the authors' code).
    """

    lr_factor: Positive = 0.1

    def conv(self, spec: ConvSpec) -> nn.Module:
        layer = spec.plain(bias=spec.without_norm)
        if spec.role.place == "classifier":
            return classifier(layer)
        return layer if spec.role.place in ("stem", "gate") else BiasedConv2d(layer, spec.role)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        if role.place == "downsample":
            return nn.Identity()
        return ScalarAffine() if role.last_in_block else ScalarBias()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        layer = nn.Linear(in_features, out_features)
        return classifier(layer) if role.place == "head" else nn.Sequential(ScalarBias(), layer)

    def initialize(self, model: nn.Module) -> None:
        """Draws the weights of convolutions by He's rule (fan-out) and rescales those of the residual branches.

        In each of L branches with m convolutions, the last convolution is set to 0 and the others are multiplied by
        L^(-1/(2m-2)). The classifier is 0 since it was built.
        """
        convolutions = [module for module in model.modules() if isinstance(module, BiasedConv2d)]
        branches: list[list[BiasedConv2d]] = [[]]
        for module in convolutions:
            layer = module.layer
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] / layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if module.role.place != "downsample":
                branches[-1].append(module)
            if module.role.last_in_block:
                branches.append([])
        branches.pop()
        for branch in branches:
            *first, last = branch
            for module in first:
                module.layer.weight.data.mul_(len(branches) ** (-1 / (2 * len(branch) - 2)))
            nn.init.zeros_(last.layer.weight)

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        scalars = [p for m in model.modules() if isinstance(m, ScalarBias | ScalarAffine) for p in m.parameters()]
        apart = {id(p) for p in scalars}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
        return [{"params": rest}, {"params": scalars, "lr": lr * self.lr_factor}]
