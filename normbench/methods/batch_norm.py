"""Batch Normalization, Ioffe and Szegedy, arXiv 1502.03167, as `torch.nn.BatchNorm2d`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normbench.methods.base import Method, Positive, Role


@dataclass(frozen=True)
class BatchNorm(Method):
    """Statistics over (N, H, W). The variance is biased in the forward pass and unbiased in the running statistics.

    momentum: the weight of the new value in the running statistics.
    """

    eps: Positive = 1e-5
    momentum: Positive = 0.1

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.BatchNorm2d(channels, self.eps, self.momentum)
