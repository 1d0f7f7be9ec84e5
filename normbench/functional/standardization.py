"""Kernels with the mean 0 and a given variance over the weights of each output channel, for all weights at once.

With v the variance of a filter and z the filter minus its mean, the result is gain * z * r, r a function of v. Its
gradient, for a gradient g of the result, is gain * r * (g - mean(g)) plus z * gain * <g, z> * r'(v) * 2 / (n - 1), or
/ n where the variance is divided by n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from normbench.functional.power_iteration import in_format_of

LEAST = 1e-15  # deviation that the gradient divides by; z is zero where there is none

Divisor = Literal["deviation", "root of the sum of squares"]


def standardized(
    weights: Sequence[Tensor], divisor: Divisor, eps: float, gains: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """Weights (o, i, h, w), each filter without its mean and over its `divisor`, times the gains (o, 1, 1, 1) if given.

    divisor: `deviation` is sqrt(v) + eps with the unbiased variance v (over n - 1), and `root of the sum of squares` is
    sqrt(max(n v, eps)) with the biased one. A filter that is constant gives zeros, and a finite gradient.
    """
    return Standardized.apply(len(weights), divisor, eps, *weights, *gains)


class Standardized(torch.autograd.Function):
    """See `standardized`."""

    @staticmethod
    def forward(ctx: Any, count: int, divisor: Divisor, eps: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        """count: of weights, which come before the gains."""
        weights, gains = tensors[:count], tensors[count:]
        sizes = [weight[0].numel() for weight in weights]
        unbiased = int(divisor == "deviation")
        moments = [torch.var_mean(weight, (1, 2, 3), correction=unbiased, keepdim=True) for weight in weights]
        variances, means = map(list, zip(*moments, strict=True))
        centred = torch._foreach_sub(weights, means)
        if divisor == "deviation":
            deviations = torch._foreach_sqrt(variances)
            factors = torch._foreach_reciprocal(torch._foreach_add(deviations, eps))
            # r' 2 / (n - 1) is -r^2 / (sqrt(v) (n - 1)).
            slopes = torch._foreach_mul(factors, factors)
            torch._foreach_div_(slopes, torch._foreach_clamp_min(deviations, LEAST))
            torch._foreach_mul_(slopes, [-1 / (size - 1) for size in sizes])
        else:
            sums = torch._foreach_mul(variances, [float(size) for size in sizes])
            factors = torch._foreach_rsqrt(torch._foreach_clamp_min(sums, eps))
            # r' 2 / n is -r^3, and 0 where eps takes the place of the sum.
            slopes = torch._foreach_pow(factors, 3)
            torch._foreach_mul_(slopes, [-(each > eps).to(each.dtype) for each in sums])
        if gains:
            slopes = torch._foreach_mul(slopes, gains)
        scales = torch._foreach_mul(factors, gains) if gains else factors
        ctx.save_for_backward(*centred, *scales, *slopes, *(factors if gains else ()))
        return tuple(torch._foreach_mul(centred, scales))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(gradients)
        centred, scales, slopes, factors = (saved[k * count : (k + 1) * count] for k in range(4))
        given = [in_format_of(g, z) for g, z in zip(gradients, centred, strict=True)]
        products = torch._foreach_mul(given, centred)
        along = [product.sum((1, 2, 3), keepdim=True) for product in products]
        found = list(torch._foreach_sub(given, [g.mean((1, 2, 3), keepdim=True) for g in given]))
        torch._foreach_mul_(found, scales)
        torch._foreach_addcmul_(found, centred, torch._foreach_mul(slopes, along))
        return (None, None, None, *found, *(torch._foreach_mul(along, factors) if factors else ()))
