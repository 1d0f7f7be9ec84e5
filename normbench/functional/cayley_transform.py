"""The Cayley transform of matrices that need not be square (Trockman and Kolter, arXiv 2104.07167, section 3).

With U the upper square of W (m, n), m >= n, and V the rest, A = U - U^H + V^H V and B = (I + A)^-1, it is

    Q = [B (I - A); -2 V B] = 2 [I; -V] B - [I; 0],

of which the columns are orthonormal. I + A is never singular, as its Hermitian part is I + V^H V. A wide matrix is
transposed before and after, so that its rows are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.functional.products import addmm, matmul
from normbench.functional.tables import identity, table


def cayley(matrices: Tensor) -> Tensor:
    """The transform of matrices (S, m, n), real or complex, to the same shape, in true float32 or wider."""
    if matrices.shape[1] < matrices.shape[2]:
        return CayleyTransform.apply(matrices.mT).mT
    return CayleyTransform.apply(matrices)


class CayleyTransform(torch.autograd.Function):
    """See `cayley`, of tall matrices."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        """matrices: (S, m, n), m >= n."""
        columns = matrices.shape[2]
        one = table(identity, columns, like=matrices)
        upper, lower = matrices[:, :columns], matrices[:, columns:]
        sum_of_all = upper - upper.mH + one
        if lower.shape[1]:
            sum_of_all = addmm(sum_of_all, lower.mH, lower)
        inverse = torch.linalg.inv_ex(sum_of_all).inverse  # unlike `inv`, without a look at whether it exists
        ctx.save_for_backward(lower, inverse)
        top = 2 * inverse - one
        return torch.cat([top, matmul(lower, -2 * inverse)], 1) if lower.shape[1] else top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        lower, inverse = ctx.saved_tensors
        columns = inverse.shape[-1]
        of_top, of_bottom = gradient[:, :columns], gradient[:, columns:]
        if lower.shape[1]:
            of_top = addmm(of_top, lower.mH, of_bottom, alpha=-1)
        # That of A: -2 B^H (of_top) B^H.
        of_a = matmul(matmul(inverse.mH, of_top), -2 * inverse.mH)
        of_upper = of_a - of_a.mH
        if not lower.shape[1]:
            return of_upper
        of_lower = addmm(matmul(of_bottom, -2 * inverse.mH), lower, of_a + of_a.mH)
        return torch.cat([of_upper, of_lower], 1)
