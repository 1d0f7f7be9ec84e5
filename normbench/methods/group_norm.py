"""Group Normalization, Wu and He, arXiv 1803.08494, as `torch.nn.GroupNorm`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from normbench.methods.base import Count, Method, Positive, Role


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
        limit = max(1, min(self.groups, channels // self.channels_per_group))
        count = max(divisor for divisor in range(1, limit + 1) if math.gcd(divisor, channels) == divisor)
        return nn.GroupNorm(count, channels, self.eps)
