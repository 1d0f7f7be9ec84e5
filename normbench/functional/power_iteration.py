"""Weights divided by their spectral norms, which are followed by power iteration, for all weights of a network at once.

A weight (o, ...) is the matrix (o, k) of its rows, in the order in which they lie in memory, so that no format is
copied. Of each there are vectors u, (1, o), and v, of the shape of one row of the weight, (1, ...), and in its memory
format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normbench.functional.products import matmul

EPS = 1e-12  # the least divisor of a vector, as torch has it


def in_format_of(x: Tensor, like: Tensor) -> Tensor:
    """x with its dimensions in the order in memory of those of `like`; only a tensor in another order is copied."""
    last = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def rows(x: Tensor) -> Tensor:
    """The rows (n, k) of x (n, ...), in the order of its memory: a view. x: as `in_format_of` returns it."""
    width = x.numel() // x.shape[0]
    return x.as_strided((x.shape[0], width), (width, 1))


def units(vectors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The vectors scaled to norm 1, and their norms before that, each 0-d."""
    norms = list(torch._foreach_norm(vectors))
    return list(torch._foreach_div(vectors, torch._foreach_clamp_min(norms, EPS))), norms


def power_steps(
    matrices: list[Tensor], right: list[Tensor], steps: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """New left vectors (1, o), new right vectors (1, k) and spectral norms (0-d) of matrices (o, k), after power steps.

    right: (1, k), where they start. steps: at least 1.
    """
    for _ in range(steps):
        left, _ = units([matmul(v, m.mT) for m, v in zip(matrices, right, strict=True)])
        # As the new right vector is that of this product, the product's norm is the left one times matrix times it.
        right, norms = units([matmul(u, m) for m, u in zip(matrices, left, strict=True)])
    return left, right, norms


def divided(
    weights: Sequence[Tensor], left: Sequence[Tensor], right: Sequence[Tensor], norms: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Weights over their spectral norms (0-d), whose gradients also flow through the norms, by u and v.

    left: u, (1, o). right: the rows of v, (1, k).
    """
    return Divided.apply(len(weights), *norms, *left, *right, *weights)


class Divided(torch.autograd.Function):
    """See `divided`. The gradient of a norm is the outer product of u and v."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """count: of weights. tensors: norms, left, right and weights, one after another."""
        norms, weights = tensors[:count], tensors[3 * count :]
        results = tuple(torch._foreach_div(weights, norms))
        ctx.save_for_backward(*tensors[: 3 * count], *results)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(gradients)
        norms, left, right, results = (saved[k * count : (k + 1) * count] for k in range(4))
        given = [in_format_of(g, result) for g, result in zip(gradients, results, strict=True)]
        along = [product.sum() for product in torch._foreach_mul(given, results)]
        columns = [u.mT for u in torch._foreach_mul(left, along)]
        found = torch._foreach_addcmul([rows(g) for g in given], columns, right, value=-1)
        torch._foreach_div_(found, norms)
        shaped = (f.as_strided(r.shape, r.stride()) for f, r in zip(found, results, strict=True))
        return (None, *[None] * (3 * count), *shaped)


def quotients(weights: Sequence[Tensor], norms: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Weights over their norms, of which the gradients with respect to the weights are given.

    norms: broadcast over the weights, in as many dimensions. slopes: of the shape of the weights.
    """
    return Quotients.apply(len(weights), *weights, *norms, *slopes)


class Quotients(torch.autograd.Function):
    """See `quotients`."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """count: of weights. tensors: weights, norms and slopes, one after another."""
        weights, norms, slopes = (tensors[k * count : (k + 1) * count] for k in range(3))
        results = torch._foreach_div(weights, norms)
        ctx.save_for_backward(*results, *norms, *slopes)
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(gradients)
        results, norms, slopes = (saved[k * count : (k + 1) * count] for k in range(3))
        given = [in_format_of(g, result) for g, result in zip(gradients, results, strict=True)]
        products = torch._foreach_mul(given, results)
        along = [product.sum_to_size(norm.shape) for product, norm in zip(products, norms, strict=True)]
        found = torch._foreach_sub(given, torch._foreach_mul(slopes, along))
        torch._foreach_div_(found, norms)
        return (None, *found, *[None] * (2 * count))
