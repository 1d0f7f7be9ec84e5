"""Iterative Normalization, Huang, Zhou, Zhu, Liu and Shao, CVPR 2019, arXiv 1904.03441: decorrelated batch norm.

Groups of channels are whitened by the inverse square root of their covariance over the batch, from five steps of
Newton's iteration, which leave directions of little variance as they are. Evaluation uses the running average of the
whitening matrices, not one of covariances. With fewer values than channels of a group, a batch is far from whitened.

Deviation from the authors' code (huangleiBuaa/IterNorm-pytorch at 574b1247): a group has the largest divisor of the
channels that is at most `group_size`; in the code that size is halved until it divides them. Its running whitening
matrix is one memory for all groups, for which torch now raises an error with more than one group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.functional.group_whitening import group_size, like, whitening
from normbench.functional.products import addmm
from normbench.functional.running import track
from normbench.functional.tables import identity, table
from normbench.functional.wide import Wide
from normbench.methods.base import Count, Method, Positive, Role


class IterNorm2d(Wide):
    """Whitens groups of channels of images (N, channels, H, W).

    size: channels of a group, a divisor of the channels. momentum: weight of the new value in the running statistics.
    Parameters: weight, bias (channels,). Buffers: running_mean (groups, 1, size), running_whitening (groups, size,
    size).
    """

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(self, channels: int, size: int, iterations: int, eps: float, momentum: float):
        super().__init__()
        self.size, self.iterations, self.eps, self.momentum = size, iterations, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        groups = channels // size
        self.register_buffer("running_mean", torch.zeros(groups, 1, size))
        self.register_buffer("running_whitening", torch.eye(size).repeat(groups, 1, 1))

    def wide(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        # (groups, values, size), without a copy if channels are innermost in memory
        rows = x.permute(0, 2, 3, 1).reshape(count * height * width, channels // self.size, self.size).transpose(0, 1)
        if self.training:
            mean = rows.mean(1, keepdim=True)
            centred = rows - mean
            one = table(identity, self.size, like=centred)
            root = whitening(addmm(one, centred.mT, centred, self.eps, 1 / rows.shape[1]), self.iterations)
            track((self.running_mean, self.running_whitening), (mean.detach(), root.detach()), self.momentum)
        else:
            centred, root = rows - self.running_mean, self.running_whitening.to(x.dtype)
        weight, bias = (each.to(x.dtype).view(-1, 1, self.size) for each in (self.weight, self.bias))
        y = addmm(bias, centred, root * weight)
        return like(y.transpose(0, 1).reshape(count, height, width, channels).permute(0, 3, 1, 2), x)


@dataclass(frozen=True)
class IterNorm(Method):
    """Whitening of groups of channels over the batch.

    group_size: the most channels of a group. iterations: steps of Newton's iteration.
    momentum: the weight of the new value in the running mean and in the running whitening matrix.
    """

    group_size: Count = 64
    iterations: Count = 5
    eps: Positive = 1e-5
    momentum: Positive = 0.1

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return IterNorm2d(channels, group_size(channels, self.group_size), self.iterations, self.eps, self.momentum)
