"""Switchable Whitening, Pan, Zhan, Shi, Tang and Luo, ICCV 2019, arXiv 1904.09739.

Groups of channels are whitened by the inverse square root of a mixture of covariances: that of the batch (batch
whitening, BW), that of each image (instance whitening, IW) and, if they are asked for, the diagonal ones of batch norm
(BN), instance norm (IN) and layer norm (LN). Their means are mixed as well. The shares are the softmax of learned
numbers, of the whole layer. The root is that of IterNorm.

Deviations from the authors' code (XingangPan/Switchable-Whitening at dc8a9947):
- With all five, the code gives BN and IN the shares of BW and IW in the covariance. Here each has its own.
- The variance of LN is biased, as all others are.
- The running covariance starts as the identity, not as zero.
- The momentum is 0.1, as that of all norms here. The authors' 0.01 (they write 0.99, the weight of the old value) needs
  some hundreds of steps until evaluation is right.
- A group has the largest divisor of the channels that is at most `group_size`; the code takes multiples of it only.
- The authors have this norm in the stem and in every second block of all stages but the last, and batch norm elsewhere.
  Here it replaces every norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from normbench.functional.group_whitening import group_size, like, whitening
from normbench.functional.moments import pooled
from normbench.functional.products import addmm, matmul
from normbench.functional.running import track
from normbench.functional.tables import identity, table
from normbench.functional.wide import Wide
from normbench.methods.base import Count, Method, Positive, Role

Kinds = Literal["bw_iw", "bw_iw_ln", "bw_iw_bn_in_ln"]


class SwitchableWhitening2d(Wide):
    """Whitens groups of channels of images (N, channels, H, W).

    size: channels of a group, a divisor of the channels. kinds: what is mixed. tied: whether means have the shares of
    covariances. momentum: weight of the new value in the running statistics. Parameters: weight, bias (channels,), and
    logits (1 or 2, number of kinds), for means and for covariances. Buffers: running_mean (groups, 1, size),
    running_cov (groups, size, size).
    """

    running_mean: Tensor
    running_cov: Tensor

    def __init__(
        self, channels: int, size: int, kinds: Kinds, tied: bool, iterations: int, eps: float, momentum: float
    ):
        super().__init__()
        self.size, self.kinds, self.iterations = size, kinds.split("_"), iterations
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.logits = nn.Parameter(torch.ones(1 if tied else 2, len(self.kinds)))
        groups = channels // size
        self.register_buffer("running_mean", torch.zeros(groups, 1, size))
        self.register_buffer("running_cov", torch.eye(size).repeat(groups, 1, 1))

    def wide(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        # (N, groups, pixels, size), without a copy if channels are innermost in memory
        rows = x.permute(0, 2, 3, 1).reshape(count, height * width, channels // self.size, self.size).transpose(1, 2)
        own = rows.mean(2, keepdim=True)
        centred = rows - own
        spread = matmul(centred.mT, centred) / (height * width)
        means, spreads = self.statistics(own, spread)
        shares = self.logits.to(x.dtype).softmax(1)
        mean = mixture(None, shares[0], means)
        mixed = mixture(self.eps * table(identity, self.size, like=x), shares[-1], spreads)
        root = whitening(mixed.flatten(0, 1), self.iterations).view_as(spread)
        weight, bias = (each.to(x.dtype).view(-1, 1, self.size) for each in (self.weight, self.bias))
        y = matmul(rows - mean, root * weight) + bias
        return like(y.transpose(1, 2).reshape(count, height, width, channels).permute(0, 3, 1, 2), x)

    def statistics(self, own: Tensor, spread: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The means (N, groups, 1, size) and covariances (N, groups, size, size), or what broadcasts to them.

        own, spread: those of each image.
        """
        of_batch, spread_of_batch = self.of_batch(own, spread)
        found = {"bw": (of_batch, spread_of_batch), "iw": (own, spread)}
        if "ln" in self.kinds:
            one = table(identity, self.size, like=spread)
            variances = spread.diagonal(dim1=-2, dim2=-1)
            mean, variance = pooled(own.flatten(1), variances.flatten(1), 1)
            found |= {"ln": (mean[..., None, None], variance[..., None, None] * one)}
            found |= {"bn": (of_batch, spread_of_batch * one), "in": (own, spread * one)}
        means, spreads = zip(*(found[kind] for kind in self.kinds), strict=True)
        return means, spreads

    def of_batch(self, own: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the covariance of the whole batch, from those of its images, or those of training."""
        if not self.training:
            return self.running_mean.to(own.dtype), self.running_cov.to(own.dtype)
        mean = own.mean(0)
        apart = (own - mean)[:, :, 0].transpose(0, 1)  # (groups, N, size)
        whole = addmm(spread.mean(0), apart.mT, apart, 1, 1 / len(own))
        track((self.running_mean, self.running_cov), (mean.detach(), whole.detach()), self.momentum)
        return mean, whole


def mixture(total: Tensor | None, shares: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The sum of parts times their shares (len(parts),), added to `total` if there is one."""
    for share, part in zip(shares, parts, strict=True):
        total = share * part if total is None else torch.addcmul(total, share, part)
    assert total is not None
    return total


@dataclass(frozen=True)
class SwitchableWhitening(Method):
    """Whitening of groups of channels by a learned mixture of covariances.

    kinds: what is mixed, see above; the paper's default is BW and IW. tied: whether means have the shares of
    covariances. group_size: the most channels of a group. iterations: steps of Newton's iteration.
    momentum: the weight of the new value in the running statistics.
    """

    kinds: Kinds = "bw_iw"
    tied: bool = False
    group_size: Count = 16
    iterations: Count = 5
    eps: Positive = 1e-5
    momentum: Positive = 0.1

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        size = group_size(channels, self.group_size)
        return SwitchableWhitening2d(channels, size, self.kinds, self.tied, self.iterations, self.eps, self.momentum)
