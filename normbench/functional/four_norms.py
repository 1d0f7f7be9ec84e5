"""Power iteration on the four matrices of Fantastic Four (Singla and Feizi, arXiv 1911.10258) at once.

The matrices R (o*h, i*w), S (o*w, i*h), T (o, i*h*w) and U (i, o*h*w) have the entries of one kernel (o, i, h, w). None
is written out: the vectors are spread over the kernel's own order of entries instead, so that one product with the
kernel as an (o, i*h*w) matrix serves several of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Vectors = list[Tensor]  # of R, S, T and U in turn, (K, length) each


def spread(r: Tensor, s: Tensor, t: Tensor, u: Tensor, shape: torch.Size) -> Tensor:
    """Right vectors of R, S and T and the left one of U, as columns (K, i*h*w, h + w + 1 + h*w).

    A kernel as an (o, i*h*w) matrix times these columns gives the left sides of R, S, T and the right side of U.
    """
    k, _, i, h, w = shape
    rows, columns, taps = (torch.eye(size, dtype=r.dtype, device=r.device) for size in (h, w, h * w))
    spread_r = r.view(k, i, 1, w, 1) * rows.view(1, 1, h, 1, h)
    spread_s = s.view(k, i, h, 1, 1) * columns.view(1, 1, 1, w, w)
    spread_u = u.view(k, i, 1, 1, 1) * taps.view(1, 1, h, w, h * w)
    whole = (spread_r.expand(k, i, h, w, h), spread_s.expand(k, i, h, w, w), t.view(k, i, h, w, 1), spread_u)
    return torch.cat(whole, 4).view(k, i * h * w, -1)


def direction(found: Tensor, before: Tensor) -> Tensor:
    """`found` (K, length) at length 1; where it is zero, as of a zero kernel, the direction before."""
    norm = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return torch.where(norm > 0, found / norm, before)


def power_step(kernels: Tensor, lefts: Vectors, rights: Vectors) -> tuple[Vectors, Vectors, Tensor]:
    """One iteration from the right vectors, for kernels (K, o, i, h, w): new left and right vectors, norms (4, K).

    A norm is that of the last product, and so a lower estimate of the matrix's.
    """
    k, o, i, h, w = kernels.shape
    matrix = kernels.reshape(k, o, i * h * w)
    # The left side of U first: its sum over output channels, for the taps of kernel and vector that are the same.
    product = rights[3].view(k, o, h * w).mT @ matrix
    u_left = direction(product.view(k, h * w, i, h * w).diagonal(dim1=1, dim2=3).sum(2), lefts[3])
    product = matrix @ spread(rights[0], rights[1], rights[2], u_left, kernels.shape)
    r, s, t, u_right = product.split((h, w, 1, h * w), 2)
    r_left, s_left, t_left = (
        direction(found.reshape(k, -1), before) for found, before in zip((r, s, t), lefts[:3], strict=True)
    )
    # The right sides of the others: sums over output channels, and over the kernel's rows or columns.
    product = torch.cat((r_left.view(k, o, h), s_left.view(k, o, w), t_left.view(k, o, 1)), 2).mT @ matrix
    r, s, t = product.split((h, w, 1), 1)
    found = [
        r.view(k, h, i, h, w).diagonal(dim1=1, dim2=3).sum(3).reshape(k, -1),
        s.view(k, w, i, h, w).diagonal(dim1=1, dim2=4).sum(3).reshape(k, -1),
        t.reshape(k, -1),
        u_right.reshape(k, -1),
    ]
    norms = torch.stack([torch.linalg.vector_norm(vector, dim=1) for vector in found])
    return [r_left, s_left, t_left, u_left], [direction(*pair) for pair in zip(found, rights, strict=True)], norms


class LeastNorm(torch.autograd.Function):
    """The least of the four norms (4, K) of each kernel, (K,), with a gradient in the kernels (K, o, i, h, w).

    The gradient is the outer product of the least matrix's vectors, put back in the order of the kernel.
    """

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, norms: Tensor, *vectors: Tensor) -> Tensor:
        least, which = norms.min(0)
        ctx.save_for_backward(which, *vectors)
        ctx.shape = kernels.shape
        return least

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        which, *vectors = ctx.saved_tensors
        k, o, _, h, w = ctx.shape
        r_left, s_left, t_left, u_left, r, s, t, u = vectors
        chosen = gradient * torch.nn.functional.one_hot(which, 4).mT.to(gradient.dtype)
        left = torch.cat(
            [
                chosen[0, :, None, None] * r_left.view(k, o, h),
                chosen[1, :, None, None] * s_left.view(k, o, w),
                chosen[2, :, None, None] * t_left.view(k, o, 1),
                chosen[3, :, None, None] * u.view(k, o, h * w),
            ],
            2,
        )
        outer = left @ spread(r, s, t, u_left, ctx.shape).mT
        return outer.view(ctx.shape), *[None] * 9
