"""Switchable Normalization, Luo et al., ICLR 2019, arXiv 1806.10779.

A layer normalizes with mixtures of the means and of the variances of instance norm, layer norm and batch norm. The
shares are the softmax of learned numbers, one set for the means and one for the variances, of the whole layer.

Deviations from the authors' code (switchablenorms/Switchable-Normalization at 5394e1d6):
- All three variances are biased, as in the paper. In the code the variance of instance norm is the unbiased one, from
  which it computes the other two, and a map of one pixel gives NaN.
- The other two follow from those of the maps by the variance of their means. The code subtracts squares, which loses
  all digits where a mean is large.
- The running variance is unbiased and starts at 1, as in torch's batch norm; in the code it is biased and starts at 0.
  The paper averages over some batches after the training instead, with parameters that do not change any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.functional.moments import moments, pooled
from normbench.functional.products import matmul
from normbench.functional.running import track, unbiased
from normbench.functional.wide import Wide
from normbench.methods.base import Method, Positive, Role


class SwitchableNorm2d(Wide):
    """Normalizes images (N, channels, H, W) with mixtures of statistics.

    momentum: weight of the new value in the running statistics of batch norm. batch: whether batch norm takes part.
    Parameters: weight, bias (channels,), and logits (2, 2 or 3), whose softmax are the shares of instance, layer and
    batch norm in the mean and in the variance. Buffers with `batch`: running_mean, running_var (channels,).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float, batch: bool):
        super().__init__()
        self.eps, self.momentum, self.batch = eps, momentum, batch
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.logits = nn.Parameter(torch.ones(2, 3 if batch else 2))
        if batch:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def wide(self, x: Tensor) -> Tensor:
        mean, variance = moments(x, (2, 3))
        parts = [(mean, variance), pooled(mean, variance, 1)]
        if self.batch:
            parts.append(self.of_batch(mean, variance, x.shape[2] * x.shape[3]))
        # (2, parts, N * C): means and variances of each kind, for each map
        stacked = torch.stack([part.expand_as(mean) for pair in zip(*parts, strict=True) for part in pair])
        shares = self.logits.to(x.dtype).softmax(1)
        mixed = matmul(shares[:, None], stacked.view(2, len(parts), -1))
        mean, variance = mixed.view(2, *mean.shape).unbind()
        gain = self.weight.view(-1, 1, 1) * (variance + self.eps).rsqrt()
        return torch.addcmul(torch.addcmul(self.bias.view(-1, 1, 1), mean, gain, value=-1), x, gain)

    def of_batch(self, mean: Tensor, variance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """The statistics of batch norm, twice (1, C, 1, 1), from those of the maps (N, C, 1, 1) or from training."""
        if not self.training:
            return self.running_mean.view(1, -1, 1, 1), self.running_var.view(1, -1, 1, 1)
        whole, spread = pooled(mean, variance, 0)
        new = whole.detach().view(-1), unbiased(spread.detach().view(-1), len(mean) * pixels)
        track((self.running_mean, self.running_var), new, self.momentum)
        return whole, spread


@dataclass(frozen=True)
class SwitchableNorm(Method):
    """Learned mixtures of the statistics of instance, layer and batch norm.

    momentum: the weight of the new value in the running statistics of batch norm.
    batch: false for instance and layer norm alone, as the authors do for batches of a few images.
    """

    batch: bool = True
    eps: Positive = 1e-5
    momentum: Positive = 0.1

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return SwitchableNorm2d(channels, self.eps, self.momentum, self.batch)
