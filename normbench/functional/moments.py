"""Mean and variance over some dimensions, and over sets of which mean and variance are known.

Whatever a norm pools over, its statistics follow from those of the maps (each channel of each image): the variance of
several maps together is the mean of their variances plus the variance of their means. Unlike the mean of the squares
minus the square of the mean, this loses no digits where means are large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def moments(x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of x over dimensions, which are kept with size 1."""
    return Moments.apply(x, dim)


def pooled(mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of equally large sets taken together along a dimension, kept with size 1.

    mean, variance: of each set.
    """
    whole, between = moments(mean, (dim,))
    return whole, variance.mean(dim, keepdim=True) + between


class Moments(torch.autograd.Function):
    """See `moments`. The gradient is one pass over x, where autograd's own takes six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if x.device.type == "cpu":  # `var_mean` takes several times as long there
            mean = x.mean(dim, keepdim=True)
            variance = (x - mean).square_().mean(dim, keepdim=True)
        else:
            variance, mean = torch.var_mean(x, dim, correction=0, keepdim=True)
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor | None, of_variance: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        count = x.numel() // max(mean.numel(), 1)
        factor = of_variance * (-2 / count)
        summand = factor * mean if of_mean is None else torch.addcmul(of_mean / count, factor, mean)
        return torch.addcmul(summand, x, factor, value=-1), None
