"""A learned scale and shift of each channel for each class, as in conditional batch norm (arXiv 1610.07629)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassAffine(nn.Module):
    """Scales and shifts images (N, channels, H, W) by the values of each image's class, at first 1 and 0.

    Parameters: gain, shift, (classes, channels).
    """

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """labels: int64 (N,)."""
        gain, shift = (table[labels][:, :, None, None].to(x.dtype) for table in (self.gain, self.shift))
        return torch.addcmul(shift, x, gain)


class ClassNorm(nn.Module):
    """A norm, followed by a scale and shift for each class, or by nothing where there are no classes.

    norm: (N, channels, H, W) to the same shape.
    """

    def __init__(self, norm: nn.Module, channels: int, classes: int | None):
        super().__init__()
        self.norm = norm
        self.affine = None if classes is None else ClassAffine(classes, channels)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """labels: int64 (N,), or None where there are no classes."""
        y = self.norm(x)
        return y if self.affine is None or labels is None else self.affine(y, labels)
