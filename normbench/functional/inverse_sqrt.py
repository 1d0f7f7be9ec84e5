"""The unconverged Newton-Schulz inverse square root of Network Deconvolution (Ye et al., arXiv 1905.11926).

A symmetric positive definite matrix is divided by its Frobenius norm, through which the gradient flows as well, and
then takes some steps of the coupled iteration

    t = 1.5 - 0.5 z y,  y = y t,  z = t z,

which starts with the matrix as y and the identity as z. z approaches the inverse square root, which is then divided by
the square root of the norm. Five steps are far from converged for a wide spectrum, which acts as the method's
regularizer (`isqrt_newton_schulz` in the authors' code).

There are two ways to compute this and its gradient: by products of matrices, and by an eigendecomposition, which
applies the iteration to the eigenvalues.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.functional.products import addmm, matmul, true_float32
from normbench.functional.symmetric import symmetric_product
from normbench.functional.tables import identity, table

MOST_BY_PRODUCTS = 2  # iterations, up to which products take less time than an eigendecomposition on a CPU as well


def inverse_sqrt(matrix: Tensor, iterations: int) -> Tensor:
    """The root itself, with its gradient: (..., F, F) -> (..., F, F). A matrix that is not finite gives NaN."""
    return InverseSqrt.apply(matrix.view(-1, *matrix.shape[-2:]), iterations).view(matrix.shape)


class InverseSqrt(torch.autograd.Function):
    """See `inverse_sqrt`."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        """matrix: (G, F, F). Returns its root."""
        root, saved = root_of(matrix, iterations)
        ctx.save_for_backward(*saved)
        return root

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        one = table(identity, gradient.shape[-1], like=gradient).expand_as(gradient)
        return twice_gradient(ctx.saved_tensors, one, gradient) / 2, None


def root_of(matrix: Tensor, iterations: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The root of each matrix (G, F, F), and what `twice_gradient` needs. A matrix that is not finite gives NaN."""
    products = matrix.device.type != "cpu" or iterations <= MOST_BY_PRODUCTS
    return (by_products if products else by_eigenvalues)(matrix, iterations)


def twice_gradient(saved: tuple[Tensor, ...], left: Tensor, right: Tensor) -> Tensor:
    """Twice the symmetric gradient of the matrices (G, F, F), if that of their roots is left.mT @ right.

    saved: from `root_of`. left, right: (G, R, F). Products with those in bfloat16 are computed in bfloat16.
    """
    # The first is a factor of each matrix (G, 1, 1), or it is the eigenvalues (G, F).
    gradient = gradient_by_products if saved[0].dim() == 3 else gradient_by_eigenvalues
    return gradient(saved, left, right)


# --- by products -----------------------------------------------------------------------------------------------------


def by_products(matrix: Tensor, iterations: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`root_of` by products of matrices.

    y, t and z of a step lie one after the other in memory, so that y t and t z are one batch of products.
    """
    with true_float32(matrix):
        one = table(identity, matrix.shape[-1], like=matrix)
        scale = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
        factor = scale.sqrt() / scale  # unlike that of `rsqrt`, this is NaN where the norm overflows
        start = matrix / scale
        z = start.lerp(one, 1.5)  # t of the first step, and z after it
        steps = matrix.new_empty(iterations - 1, 3, *matrix.shape)
        for index, step in enumerate(steps):
            y, t, z_of_step = step.unbind()
            if index == 0:
                z_of_step.copy_(z)
                put(y, start, z)
            put(t, z_of_step, y, one, 1.5, -0.5)
            if index < len(steps) - 1:
                put_both(steps[index + 1], step[:2], step[1:])
            else:
                z = matmul(t, z_of_step)
        return z * factor, (factor, start, steps, z)


def gradient_by_products(saved: tuple[Tensor, ...], left: Tensor, right: Tensor) -> Tensor:
    """`twice_gradient` of `by_products`.

    A function of a symmetric matrix that is a power series has a symmetric derivative. So the gradient is the
    derivative in the direction of the gradient of the root, by the product rule along with the iteration.
    """
    factor, start, steps, z = saved
    with true_float32(factor):
        of_root = matmul(left.mT, right).to(start.dtype)
        of_start = (of_root + of_root.mT) * factor**3
        of_z = -0.5 * of_start
        now, following = start.new_empty(2, 3, *start.shape) if len(steps) else (start, start)
        for index, step in enumerate(steps):
            (y, t, z_of_step), (of_y, of_t, of_z_of_step) = step.unbind(), now.unbind()
            if index == 0:
                of_z_of_step.copy_(of_z)
                put(of_y, of_start, z_of_step)
                put(of_y, start, of_z, of_y)
            put(of_t, of_z_of_step, y)
            put(of_t, z_of_step, of_y, of_t, -0.5, -0.5)
            if index < len(steps) - 1:
                put_both(following, now[:2], step[1:])
                put_both(following, step[:2], now[1:], add=True)
                now, following = following, now
            else:
                of_z = addmm(matmul(of_t, z_of_step), t, of_z_of_step)
        # What flows through the norm is a multiple of the matrix.
        along = torch.addcmul(of_z * start, of_start, z, value=0.5).sum((-2, -1), keepdim=True)
        return torch.addcmul(of_z, along, start, value=-1)


def put(out: Tensor, a: Tensor, b: Tensor, added: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0) -> None:
    """Writes a @ b, or beta * added + alpha * a @ b, to `out`; stacks of matrices (G, F, F)."""
    if torch.compiler.is_compiling():
        out.copy_(matmul(a, b) if added is None else addmm(added, a, b, beta, alpha))
    elif added is None:
        torch.bmm(a, b, out=out)
    else:
        torch.baddbmm(added, a, b, beta=beta, alpha=alpha, out=out)


def put_both(step: Tensor, a: Tensor, b: Tensor, add: bool = False) -> None:
    """Writes a[0] @ b[0] to y and a[1] @ b[1] to z of a step (3, G, F, F), or adds them; a, b: (2, G, F, F)."""
    out = step[::2]
    if out.shape[1] == 1 and out.device.type != "cpu":  # one batch of two products
        out, a, b = out[:, 0], a[:, 0], b[:, 0]
        put(out, a, b, out if add else None)
    else:
        for i in (0, 1):
            put(out[i], a[i], b[i], out[i] if add else None)


# --- by eigenvalues --------------------------------------------------------------------------------------------------


def by_eigenvalues(matrix: Tensor, iterations: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`root_of` by eigendecomposition.

    A step computes t = 1.5 - 0.5 x from the product x of z and y, and changes x to x t^2 and z to z t.
    """
    scale = torch.linalg.vector_norm(matrix, dim=(-2, -1))
    # eigh raises an error for values that are not finite. They are replaced below; the scale makes the result NaN.
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    values, vectors = torch.linalg.eigh(matrix.nan_to_num(0.0, 0.0, 0.0))
    x, factors = values / scale[..., None], []
    for _ in range(iterations):
        factors.append(torch.sub(1.5, x, alpha=0.5))
        x = x * factors[-1] * factors[-1]
    t = torch.stack(factors)
    z = t.cumprod(0)
    root = symmetric_product(vectors * (z[-1] / scale.sqrt()[..., None])[..., None, :], vectors)
    return root, (values, vectors, scale, t, z)


def gradient_by_eigenvalues(saved: tuple[Tensor, ...], left: Tensor, right: Tensor) -> Tensor:
    """`twice_gradient` of `by_eigenvalues`.

    The gradient of a function of a matrix involves its divided differences over pairs of eigenvalues i, j. By the
    product rule, that of z after the last step is the sum over the steps of -0.5 z_i x_ij t_j', where z and the divided
    difference x_ij are those before the step, and t' is the product of the later t. A step multiplies x_ij by
    t_i^2 + t_i t_j + t_j^2 - 1.5 (t_i + t_j). So nothing is divided by a difference of close eigenvalues.
    """
    values, vectors, scale, t, z = saved
    # Twice the symmetric part of the gradient of the root, in the eigenbasis.
    basis = vectors.to(left.dtype)
    if left.shape[1] < left.shape[2]:
        one, other = matmul(left, basis), matmul(right, basis)
        inner = symmetric_product(torch.cat([one, other], 1).mT, torch.cat([other, one], 1).mT)
    else:
        of_root = matmul(left.mT, right)
        inner = symmetric_product(matmul(basis.mT, of_root + of_root.mT), basis.mT)
    inner = inner.to(values.dtype)
    before = torch.cat([torch.full_like(t[:1], -0.5), -0.5 * z[:-1]])[..., None]
    later = t.flip(0).cumprod(0).flip(0)[:, :, None]  # from each step on
    own, one = t * (t - 1.5), torch.ones_like(t)
    rows, columns = torch.stack([t, own, one], -1), torch.stack([t, one, own], -2)
    z_difference = before[-1]
    for step in range(len(t) - 2, -1, -1):
        z_difference = matmul(rows[step], columns[step]).mul_(z_difference).addcmul_(before[step], later[step + 1])
    # The part of the gradient that flows through the norm is a multiple of the matrix: diagonal in the eigenbasis.
    along = (inner.diagonal(dim1=-2, dim2=-1) * z[-1]).sum(-1) / (2 * scale**1.5)
    inner.mul_(z_difference).mul_((scale**-1.5)[..., None, None])
    along = along + (inner.diagonal(dim1=-2, dim2=-1) * values).sum(-1) / scale
    inner.diagonal(dim1=-2, dim2=-1).sub_((along / scale)[..., None] * values)
    return symmetric_product(matmul(basis, inner.to(basis.dtype)), basis).to(values.dtype)
