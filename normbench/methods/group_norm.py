"""Group Normalization, Wu and He, arXiv 1803.08494, as `torch.nn.GroupNorm` in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.methods.base import Count, Method, Positive, Role


class Float32GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` in float32 or wider; the result has the precision of x (N, channels, H, W), rounded once.

    Under autocast, torch alone would return float32 on CUDA, for all that follows, and the precision of x on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # Its kernel takes images of lower precision than the weights.
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def groups_of(channels: int, groups: int, channels_per_group: int) -> int:
    """The largest divisor of the channels that is at most `groups`, and leaves that many channels to each group."""
    limit = max(1, min(groups, channels // channels_per_group))
    return max(divisor for divisor in range(1, limit + 1) if math.gcd(divisor, channels) == divisor)


@dataclass(frozen=True)
class GroupNorm(Method):
    """Statistics over (channels of a group, H, W) of each sample.

    groups: the paper's 32, for wide layers.
    channels_per_group: the least channels that a group keeps, so that narrow CIFAR networks have fewer groups.
    The number of groups is the largest divisor of the channels that respects both.
    """

    groups: Count = 32
    channels_per_group: Count = 4
    eps: Positive = 1e-5

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return Float32GroupNorm(groups_of(channels, self.groups, self.channels_per_group), channels, self.eps)
