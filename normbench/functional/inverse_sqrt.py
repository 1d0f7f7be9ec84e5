"""The unconverged Newton-Schulz inverse square root of Network Deconvolution (Ye et al., arXiv 1905.11926)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.functional.symmetric import symmetric_product


def inverse_sqrt(matrix: Tensor, iterations: int) -> Tensor:
    """The root of `times_inverse_sqrt` itself, with its gradient: (..., F, F) -> (..., F, F)."""
    square = matrix.view(-1, *matrix.shape[-2:])
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return times_inverse_sqrt(identity.expand_as(square), square, iterations)[0].view(matrix.shape)


def times_inverse_sqrt(rows: Tensor, matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """rows (G, R, F), matrix (G, F, F) -> rows @ root (G, R, F), and the root (G, F, F), which has no gradient.

    The root is the Newton-Schulz approximation of the inverse square root of a symmetric positive definite matrix. The
    matrix is divided by its Frobenius norm, through which the gradient flows as well, and then takes `iterations` steps
    of the coupled iteration. Five of them are far from converged for a wide spectrum, which acts as the method's
    regularizer (`isqrt_newton_schulz` in the authors' code). A matrix that is not finite gives NaN.

    The gradient of the matrix is symmetric. Rows in bfloat16 are multiplied in bfloat16; the root itself is computed in
    the precision of the matrix.
    """
    if matrix.device.type == "cpu":  # there, unlike on a GPU, an eigendecomposition is far cheaper than the products
        return TimesSpectralRoot.apply(rows, matrix, iterations)
    matrix = (matrix + matrix.mT) / 2  # so that its gradient is symmetric
    scale = matrix.flatten(-2).norm(dim=-1)[..., None, None]
    y = matrix / scale
    z = identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for step in range(iterations):
        t = 1.5 * identity - 0.5 * (y if step == 0 else z @ y)
        z = t if step == 0 else t @ z
        if step < iterations - 1:
            y = y @ t
    root = z / scale.sqrt()
    return rows @ root.to(rows.dtype), root.detach()


class TimesSpectralRoot(torch.autograd.Function):
    """`times_inverse_sqrt` by eigendecomposition: the same iteration, applied to the eigenvalues.

    The coupled iteration updates two matrices: z, which approaches the root, and y. A step computes t = 1.5 - 0.5 x
    from their product x, and changes x to x t^2 and z to z t. The gradient of a function of a matrix involves its
    divided differences over pairs of eigenvalues. They follow from the product rule along with the iteration, so that
    nothing is divided by a difference of close eigenvalues.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """See `times_inverse_sqrt`."""
        scale = matrix.flatten(-2).norm(dim=-1)
        # eigh raises an error for values that are not finite. They are replaced below; the scale makes the result NaN.
        scale = torch.where(scale.isfinite(), scale, torch.nan)
        values, vectors = torch.linalg.eigh(matrix.nan_to_num(0.0, 0.0, 0.0))
        x, z, factors = values / scale[..., None], torch.ones_like(values), []
        for _ in range(iterations):
            t = torch.sub(1.5, x, alpha=0.5)
            factors.append(t)
            x, z = x * t * t, z * t
        root = symmetric_product(vectors * (z / scale.sqrt()[..., None])[..., None, :], vectors)
        ctx.save_for_backward(rows, values, vectors, scale, root, torch.stack(factors))
        ctx.mark_non_differentiable(root)
        ctx.set_materialize_grads(False)  # that of the root would be zeros
        return rows @ root.to(rows.dtype), root

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, Tensor | None, None]:
        if gradient is None:
            return None, None, None
        rows, values, vectors, scale, root, t = ctx.saved_tensors
        of_rows = gradient @ root.to(gradient.dtype)
        if not ctx.needs_input_grad[1]:
            return of_rows, None, None
        # Twice the symmetric part of rows.mT @ gradient, the gradient of the root, in the eigenbasis.
        basis = vectors.to(rows.dtype)
        if rows.shape[1] < rows.shape[2]:
            one, other = rows @ basis, gradient @ basis
            inner = symmetric_product(torch.cat([one, other], 1).mT, torch.cat([other, one], 1).mT)
        else:
            of_root = rows.mT @ gradient
            inner = symmetric_product(basis.mT @ (of_root + of_root.mT), basis.mT)
        inner = inner.to(values.dtype)
        z = torch.cat([torch.ones_like(t[:1]), t.cumprod(0)])  # before each step, and after the last
        # The divided difference of x t^2 is that of x times t_i^2 + t_i t_j + t_j^2 - 1.5 (t_i + t_j).
        own = t * (t - 1.5)
        x_difference, z_difference = torch.ones_like(t[0, :, None]), torch.zeros_like(t[0, :, None])
        for step in range(len(t)):
            row, column = t[step, :, None, :], t[step, :, :, None]
            z_difference = torch.addcmul(z_difference * row, x_difference, z[step, :, :, None], value=-0.5)
            if step < len(t) - 1:
                factor = torch.addcmul(own[step, :, None, :], column, row).add_(own[step, :, :, None])
                x_difference = factor.mul_(x_difference)
        # The part of the gradient that flows through the norm is a multiple of the matrix: diagonal in the eigenbasis.
        along = (inner.diagonal(dim1=-2, dim2=-1) * z[-1]).sum(-1) / (4 * scale**1.5)
        inner.mul_(z_difference).mul_((0.5 * scale**-1.5)[..., None, None])
        along = along + (inner.diagonal(dim1=-2, dim2=-1) * values).sum(-1) / scale
        inner.diagonal(dim1=-2, dim2=-1).sub_((along / scale)[..., None] * values)
        return of_rows, symmetric_product(basis @ inner.to(basis.dtype), basis).to(values.dtype), None
