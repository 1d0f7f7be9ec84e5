"""What norms that whiten groups of channels have in common."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normbench.functional.inverse_sqrt import inverse_sqrt

LEAST = 1e-12  # of the square of a trace, for that of the number that is added


def group_size(channels: int, most: int) -> int:
    """The largest divisor of the channels that is at most `most`."""
    return max(size for size in range(1, most + 1) if math.gcd(size, channels) == size)


def whitening(covariance: Tensor, iterations: int) -> Tensor:
    """The inverse square root (G, F, F) of covariances by Newton's iteration from Sigma / trace(Sigma).

    Huang et al., arXiv 1904.03441, algorithm 1: P = 1.5 P - 0.5 P^3 Sigma / trace, from the identity on, over the
    square root of the trace. `inverse_sqrt` iterates in this way from a matrix over its Frobenius norm, which after a
    few steps is another result. So each matrix is given a row and a column more, with a number on the diagonal for
    which the norm of the whole is the trace. It does not mix with the rest.
    """
    size = covariance.shape[-1]
    return inverse_sqrt(WithTraceAsNorm.apply(covariance), iterations)[:, :size, :size]


class WithTraceAsNorm(torch.autograd.Function):
    """Matrices (G, F + 1, F + 1) that are positive definite ones (G, F, F) but for a number at the end of the diagonal.

    The number is the root of the square of the trace minus that of the Frobenius norm. Of a matrix of rank one it would
    be zero, and by rounding nothing at all, so that it has a least value, which changes the norm by half of LEAST.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
        share = torch.linalg.vector_norm(matrix, dim=(-2, -1)) / trace
        number = trace * (1 - share * share).clamp_min(LEAST).sqrt()
        ctx.save_for_backward(matrix, trace, number)
        whole = functional.pad(matrix, (0, 1, 0, 1))
        whole[:, -1, -1] = number
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        matrix, trace, number = ctx.saved_tensors
        factor = gradient[:, -1, -1] / number
        of_matrix = torch.addcmul(gradient[:, :-1, :-1], matrix, factor[:, None, None], value=-1)
        of_matrix.diagonal(dim1=-2, dim2=-1).add_((factor * trace)[:, None])
        return of_matrix


def like(y: Tensor, x: Tensor) -> Tensor:
    """Images y, whose channels are innermost in memory, in the memory format of images x of the same shape."""
    return y.contiguous() if x.is_contiguous() else y
