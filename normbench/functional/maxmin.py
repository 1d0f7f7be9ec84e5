"""MaxMin, Anil, Lucas and Grosse, ICML 2019, arXiv 1811.05381: GroupSort with groups of two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaxMin(nn.Module):
    """The larger values of pairs of channels, then the smaller ones: (N, C, ...) to the same shape.

    Channel c of the first half and channel c of the second half are a pair. With an odd number of channels, the last
    one stays as it is. The values are only reordered, so that the Lipschitz constant is 1, and norms of gradients are
    kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        return Sorted.apply(x)


class Sorted(torch.autograd.Function):
    """See `MaxMin`. The gradient of each value goes where the value came from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        one, other, rest = parts(x)
        swapped = one < other
        ctx.save_for_backward(swapped)
        # Both are NaN where one is.
        return torch.cat([torch.maximum(one, other), torch.minimum(one, other), rest], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (swapped,) = ctx.saved_tensors
        largest, least, rest = parts(gradient)
        return torch.cat([torch.where(swapped, least, largest), torch.where(swapped, largest, least), rest], 1)


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both halves of the channels, and the last channel if there is an odd number of them."""
    half = x.shape[1] // 2
    one, other, rest = x.split([half, half, x.shape[1] - 2 * half], 1)
    return one, other, rest
