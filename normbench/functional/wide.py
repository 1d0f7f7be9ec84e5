"""Layers that compute in float32 or wider, and return images of the precision of those that they were given."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Wide(nn.Module):
    """A layer on images (N, channels, H, W) whose `wide` never sees less than float32, under autocast neither.

    The result has the dtype of the images, rounded once. On their own, torch's functions would round statistics to the
    precision of the images, and autocast would let some of them return float32 for all that follows.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.wide(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def wide(self, x: Tensor) -> Tensor:
        """The layer for images in float32 or float64; keeps the shape and the dtype."""
        raise NotImplementedError  # A subclass defines it.
