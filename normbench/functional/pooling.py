"""Average pooling to a given size, with kernels that are deterministic on every device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragePool(nn.Module):
    """Averages maps to side x side: (N, C, H, W) -> (N, C, side, side).

    Pixel i of a side is the mean of the pixels from floor(i H / side) to ceil((i + 1) H / side), as in
    `torch.nn.AdaptiveAvgPool2d`, whose gradient on a GPU is not deterministic. Maps that have the size already are
    returned as they are.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            size = x.shape[axis]
            if size != self.side:
                bins = [(i * size // self.side, -(-(i + 1) * size // self.side)) for i in range(self.side)]
                x = torch.cat([x.narrow(axis, low, high - low).mean(axis, keepdim=True) for low, high in bins], axis)
        return x
