"""No normalization: convolutions with biases, initialised by He et al., arXiv 1502.01852, nothing after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from normbench.methods.base import ConvSpec, Method, NotNegative, Role


@dataclass(frozen=True)
class NoNorm(Method):
    """The control. Weights are drawn as by He et al., arXiv 1502.01852 (fan-in, ReLU), not by torch's default.

    residual_gain: a factor on the last convolution of each residual branch; with 0 every block starts as its shortcut.
    """

    residual_gain: NotNegative = 1.0

    def conv(self, spec: ConvSpec) -> nn.Module:
        layer = spec.plain(bias=True)
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        layer.bias = nn.Parameter(torch.zeros(spec.out_channels))
        if spec.role.last_in_block:
            layer.weight.data.mul_(self.residual_gain)
        return layer

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()
