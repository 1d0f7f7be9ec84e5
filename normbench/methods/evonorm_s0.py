"""EvoNorm-S0, Liu, Brock, Simonyan and Le, NeurIPS 2020, arXiv 2004.02967: a norm and its activation in one.

    weight * x * sigmoid(v * x) / sqrt(variance of a group + eps) + bias

It replaces a batch norm and the activation that follows it, and does not depend on other images. As in the authors'
code (tensorflow/tpu at 0325bfff, models/official/resnet/resnet_model.py), a norm that no activation follows, such as
the last one before a residual addition or that of a shortcut, is only the weight and the bias, and the activation after
an addition stays a ReLU. Nothing undoes the scale of the kernels there, so that these start as the authors' do, with a
variance of one over the fan-in.

Their residual branches start at zero, those with batch norm too. Here they do so with `zero_init` only, since no other
method has it, and since a short training of a narrow network may not get going with it.

Deviation: the paper's 32 groups would leave a single channel to each group in narrow networks, so that maps of one
pixel had no variance. The number of groups is chosen as that of `group_norm` is, with the same default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.functional.channel_affine import ChannelAffine
from normbench.functional.moments import moments
from normbench.functional.wide import Wide
from normbench.methods.base import ConvSpec, Count, Method, Positive, Role
from normbench.methods.group_norm import groups_of


class EvoNormS0Layer(Wide):
    """The layer with its activation: (N, channels, H, W) to the same shape. Parameters: weight, bias, v (channels,)."""

    def __init__(self, channels: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def wide(self, x: Tensor) -> Tensor:
        _, variance = moments(x.unflatten(1, (self.groups, -1)), (2, 3, 4))
        gain = self.weight.view(self.groups, -1, 1, 1) * (variance + self.eps).rsqrt()
        return Gated.apply(x, self.v.view(-1, 1, 1), gain.flatten(1, 2), self.bias.view(-1, 1, 1))


class Gated(torch.autograd.Function):
    """gain * x * sigmoid(v * x) + bias, for x (N, C, H, W), gain (N, C, 1, 1), v and bias (C, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        gate = (x * v).sigmoid_()
        ctx.save_for_backward(x, v, gain, gate)
        return torch.addcmul(bias, x * gate, gain)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, v, gain, gate = ctx.saved_tensors
        gated, inner = x * gate, gradient * gain
        of_gain = (gradient * gated).sum((2, 3), keepdim=True)
        of_product = inner * torch.addcmul(gated, gated, gate, value=-1)  # of v * x
        of_x = torch.addcmul(inner * gate, of_product, v)
        of_v, of_bias = (value.sum((0, 2, 3))[:, None, None] for value in (of_product * x, gradient))
        return of_x, of_v, of_gain, of_bias


def scaled_by_fan_in(layer: nn.Module) -> nn.Module:
    """The layer with a new weight of variance 1 / fan-in."""
    nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="linear")
    return layer


def without_activation(channels: int, role: Role, zero_init: bool) -> ChannelAffine:
    """What an EvoNorm is where no activation follows: weight and bias, zero at the end of a residual branch."""
    layer = ChannelAffine(channels)
    if zero_init and role.last_in_block:
        nn.init.zeros_(layer.weight)
    return layer


@dataclass(frozen=True)
class EvoNormS0(Method):
    """The norms with their activations; what an architecture has after a residual addition stays.

    groups: the paper's 32, for wide layers.
    channels_per_group: the least channels that a group keeps.
    zero_init: whether residual branches start at zero.
    """

    groups: Count = 32
    channels_per_group: Count = 4
    eps: Positive = 1e-5
    zero_init: bool = False

    def conv(self, spec: ConvSpec) -> nn.Module:
        return scaled_by_fan_in(super().conv(spec))

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        if not role.activation:
            return without_activation(channels, role, self.zero_init)
        return EvoNormS0Layer(channels, groups_of(channels, self.groups, self.channels_per_group), self.eps)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return super().activation(channels, role=role) if role.place == "addition" else nn.Identity()
