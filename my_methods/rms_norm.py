"""RMS normalization, Zhang and Sennrich, arXiv 1910.07467, for feature maps: a complete norm in one file."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Each sample over the root mean square of its values, times a learned gain for each channel."""

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(num_features, 1, 1)), eps

    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().square().mean((1, 2, 3), keepdim=True)
        return x * ((mean_square + self.eps).rsqrt() * self.weight).to(x.dtype)
