"""RMS normalization, Zhang and Sennrich, arXiv 1910.07467, for feature maps: a complete norm in one file."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.methods.base import Method, Positive, Role


class RMSNorm2d(nn.Module):
    """Each sample over the root mean square of its values, times a learned gain for each channel."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(channels, 1, 1)), eps

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().square().mean((1, 2, 3), keepdim=True)
        return x * ((mean_square + self.eps).rsqrt() * self.weight).to(x.dtype)


@dataclass(frozen=True)
class RMSNorm(Method):
    eps: Positive = 1e-5

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return RMSNorm2d(channels, self.eps)
