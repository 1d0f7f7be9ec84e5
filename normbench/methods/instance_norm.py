"""Instance Normalization, Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022.

Each map is normalized on its own, in training and in evaluation alike. As in torch's `InstanceNorm2d`, there is neither
weight nor bias by default, and there are no running statistics.

A map of one pixel has no variance: it becomes zero, or the bias. torch's layer raises an error for it, in evaluation
too if it has no running statistics. A network whose last maps are that small gives the same output for every image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.functional.wide import Wide
from normbench.methods.base import Method, Positive, Role


class InstanceNorm2d(Wide):
    """Normalizes each map of images (N, channels, H, W).

    affine: whether there are the parameters weight (channels,) and bias (channels,).
    """

    def __init__(self, channels: int, eps: float, affine: bool):
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def wide(self, x: Tensor) -> Tensor:
        # Group norm with a channel in each group. `torch.nn.functional` would refuse maps of one pixel.
        weight, bias = (None if value is None else value.to(x.dtype) for value in (self.weight, self.bias))
        return torch.group_norm(x, self.channels, weight, bias, self.eps)


@dataclass(frozen=True)
class InstanceNorm(Method):
    """Statistics over (H, W) of each channel of each image. affine: whether each channel has a weight and a bias."""

    affine: bool = False
    eps: Positive = 1e-5

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return InstanceNorm2d(channels, self.eps, self.affine)
