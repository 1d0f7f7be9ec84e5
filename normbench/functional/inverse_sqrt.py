"""The unconverged Newton-Schulz inverse square root of Network Deconvolution (Ye et al., arXiv 1905.11926)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inverse_sqrt(matrix: Tensor, iterations: int) -> Tensor:
    """Newton-Schulz approximation of the inverse square root of symmetric positive definite matrices, (..., F, F).

    The matrix is divided by its Frobenius norm, through which the gradient flows as well, and then takes `iterations`
    steps of the coupled iteration. Five of them are far from converged for a wide spectrum, which acts as the method's
    regularizer (`isqrt_newton_schulz` in the authors' code). A matrix that is not finite gives NaN.
    """
    if matrix.device.type == "cpu":  # there, unlike on a GPU, an eigendecomposition is far cheaper than the products
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
    """`inverse_sqrt` by eigendecomposition: the same iteration, applied to the eigenvalues.

    The gradient of a function of a matrix involves divided differences over pairs of eigenvalues. They obey a product
    rule and are iterated along with the eigenvalues, so that nothing is divided by a difference of close eigenvalues.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        """(..., F, F) -> (..., F, F), see `inverse_sqrt`."""
        scale = matrix.flatten(-2).norm(dim=-1)
        # eigh raises an error for values that are not finite. They are replaced below; the scale makes the result NaN.
        scale = torch.where(scale.isfinite(), scale, torch.nan)
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
        # The part of the gradient that flows through the norm is a multiple of the matrix: diagonal in the eigenbasis.
        along = (inner.diagonal(dim1=-2, dim2=-1) * z).sum(-1) / (2 * scale**1.5)
        inner = z_difference * inner / scale.sqrt()[..., None, None]
        along = along + (inner.diagonal(dim1=-2, dim2=-1) * values).sum(-1) / scale.square()
        inner.diagonal(dim1=-2, dim2=-1).sub_(along[..., None] * values)
        return vectors @ inner @ vectors.mT / scale[..., None, None], None
