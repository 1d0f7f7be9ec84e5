"""The unconverged Newton-Schulz inverse square root of Network Deconvolution (Ye et al., arXiv 1905.11926)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inverse_sqrt(matrix: Tensor, iterations: int) -> Tensor:
    """Newton-Schulz iterate towards the inverse square root of symmetric positive matrices (..., F, F).

    The coupled iteration on the matrix over its Frobenius norm, through which the gradient also flows. Five iterations
    are far from converged for a wide spectrum, and that is the method's regularizer (isqrt_newton_schulz there). A
    matrix that is not finite gives NaN.
    """
    if matrix.device.type == "cpu":  # where a decomposition is far cheaper than the products; on a GPU it is not
        return SpectralInverseSqrt.apply(matrix, iterations)
    scale = matrix.flatten(-2).norm(dim=-1)[..., None, None]
    y = matrix / scale
    z = identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for step in range(iterations):
        t = 1.5 * identity - 0.5 * (y if step == 0 else z @ y)
        z = t if step == 0 else t @ z
        if step < iterations - 1:
            y = y @ t
    return z / scale.sqrt()


class SpectralInverseSqrt(torch.autograd.Function):
    """`inverse_sqrt` in the eigenbasis: the iteration on eigenvalues alone, and one decomposition for all its products.

    The gradient is exact without a quotient of close eigenvalues: the divided differences of the iterates obey the
    product rule, so that they are iterated with them.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        scale = matrix.flatten(-2).norm(dim=-1)
        scale = torch.where(scale.isfinite(), scale, torch.nan)  # the decomposition refuses what is not finite
        values, vectors = torch.linalg.eigh(matrix.nan_to_num(0.0, 0.0, 0.0))
        y, z = values / scale[..., None], torch.ones_like(values)
        for _ in range(iterations):
            t = 1.5 - 0.5 * z * y
            y, z = y * t, t * z
        ctx.save_for_backward(values, vectors, scale)
        ctx.iterations = iterations
        return (vectors * z[..., None, :]) @ vectors.mT / scale.sqrt()[..., None, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors, scale = ctx.saved_tensors
        y, z = values / scale[..., None], torch.ones_like(values)
        y_difference, z_difference = torch.ones_like(vectors), torch.zeros_like(vectors)
        for _ in range(ctx.iterations):
            t = 1.5 - 0.5 * z * y
            t_difference = -0.5 * (z[..., None] * y_difference + z_difference * y[..., None, :])
            y_difference = y[..., None] * t_difference + y_difference * t[..., None, :]
            z_difference = t[..., None] * z_difference + t_difference * z[..., None, :]
            y, z = y * t, t * z
        inner = vectors.mT @ gradient @ vectors
        # What the gradient has along the matrix itself, through its norm, is read off in the eigenbasis.
        along = (inner.diagonal(dim1=-2, dim2=-1) * z).sum(-1) / (2 * scale**1.5)
        inner = z_difference * inner / scale.sqrt()[..., None, None]
        along = along + (inner.diagonal(dim1=-2, dim2=-1) * values).sum(-1) / scale.square()
        inner.diagonal(dim1=-2, dim2=-1).sub_(along[..., None] * values)
        return vectors @ inner @ vectors.mT / scale[..., None, None], None
