"""Power iteration on the four matrices of Fantastic Four (Singla and Feizi, arXiv 1911.10258) at once.

The matrices R (o*h, i*w), S (o*w, i*h), T (o, i*h*w) and U (i, o*h*w) are reshapings of one kernel (o, i, h, w). They
are never formed. Instead their singular vectors are expanded to match the kernel's own order of entries, so that a
single product with the kernel as an (o, i*h*w) matrix serves several of the matrices. In shapes, K is the number of
kernels, which are processed as a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Vectors = list[Tensor]  # left or right singular vectors of R, S, T and U, in this order, (K, length) each


def spread(r: Tensor, s: Tensor, t: Tensor, u: Tensor, shape: torch.Size) -> Tensor:
    """Expands the right vectors r, s, t of R, S, T and the left vector u of U into columns (K, i*h*w, h + w + 1 + h*w).

    shape: that of the kernels, (K, o, i, h, w). The product of the kernel as an (o, i*h*w) matrix with these columns
    holds R r, S s, T t and U^T u, each as an array with o rows.
    """
    k, _, i, h, w = shape
    rows, columns, taps = (torch.eye(size, dtype=r.dtype, device=r.device) for size in (h, w, h * w))
    spread_r = r.view(k, i, 1, w, 1) * rows.view(1, 1, h, 1, h)
    spread_s = s.view(k, i, h, 1, 1) * columns.view(1, 1, 1, w, w)
    spread_u = u.view(k, i, 1, 1, 1) * taps.view(1, 1, h, w, h * w)
    whole = (spread_r.expand(k, i, h, w, h), spread_s.expand(k, i, h, w, w), t.view(k, i, h, w, 1), spread_u)
    return torch.cat(whole, 4).view(k, i * h * w, -1)


def direction(found: Tensor, before: Tensor) -> Tensor:
    """Vectors `found` (K, length) scaled to norm 1. A zero vector, as from a zero kernel, becomes that of `before`."""
    norm = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return torch.where(norm > 0, found / norm, before)


def power_step(kernels: Tensor, lefts: Vectors, rights: Vectors) -> tuple[Vectors, Vectors, Tensor]:
    """One step of power iteration for kernels (K, o, i, h, w): new left vectors, new right vectors, norms (4, K).

    It starts from the right vectors; the left ones are used only where a product is zero. Each norm is that of the
    matrix times a unit vector, and so a lower estimate of the matrix's spectral norm.
    """
    k, o, i, h, w = kernels.shape
    matrix = kernels.reshape(k, o, i * h * w)
    # The left vector of U comes first. It sums over output channels and over taps; the product has all pairs of taps
    # of vector and kernel, and those that are the same lie on its diagonal.
    product = rights[3].view(k, o, h * w).mT @ matrix
    u_left = direction(product.view(k, h * w, i, h * w).diagonal(dim1=1, dim2=3).sum(2), lefts[3])
    product = matrix @ spread(rights[0], rights[1], rights[2], u_left, kernels.shape)
    r, s, t, u_right = product.split((h, w, 1, h * w), 2)
    r_left, s_left, t_left = (
        direction(found.reshape(k, -1), before) for found, before in zip((r, s, t), lefts[:3], strict=True)
    )
    # The right vectors of R, S and T are sums over output channels, and for R and S also over kernel rows or columns.
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
    """The smallest of the four norms of each kernel, differentiable in the kernels.

    The gradient is the outer product of the left and right vectors of the matrix with the smallest norm, reshaped to
    the kernel.
    """

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, norms: Tensor, *vectors: Tensor) -> Tensor:
        """kernels (K, o, i, h, w), norms (4, K) -> (K,). vectors: the four left and then the four right vectors."""
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
