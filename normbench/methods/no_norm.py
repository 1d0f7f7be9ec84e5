"""No normalization: convolutions with biases, initialised by He et al., arXiv 1502.01852, nothing after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from normbench.functional.convolution import Conv2d
from normbench.methods.base import Method, NotNegative, Role


@dataclass(frozen=True)
class NoNorm(Method):
    """The control. Weights are drawn by He et al., arXiv 1502.01852 (fan-in, ReLU), which torch's default is not.

    residual_gain: factor on the last convolution of each residual branch; 0 starts every block as its shortcut.
    """

    residual_gain: NotNegative = 1.0

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        role: Role,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> nn.Module:
        layer = Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=True)
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        layer.bias = nn.Parameter(torch.zeros(out_channels))
        if role.last_in_block:
            layer.weight.data.mul_(self.residual_gain)
        return layer

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()
