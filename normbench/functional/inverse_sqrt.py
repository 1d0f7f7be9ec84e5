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

from normbench.functional import launches
from normbench.functional.launches import write
from normbench.functional.products import addmm, matmul, true_float32, wide_matmul
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
        return twice_gradient(ctx.saved_tensors, one, gradient, gradient.dtype) / 2, None


def root_of(matrix: Tensor, iterations: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The root of each matrix (G, F, F), and what `twice_gradient` needs. A matrix that is not finite gives NaN."""
    products = launches.count(matrix) or iterations <= MOST_BY_PRODUCTS
    return (by_products if products else by_eigenvalues)(matrix, iterations)


def twice_gradient(saved: tuple[Tensor, ...], left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Twice the symmetric gradient of the matrices (G, F, F), in a dtype, if that of their roots is left.mT @ right.

    saved: from `root_of`. left, right: (G, R, F). Products with those in bfloat16 are computed in bfloat16.
    """
    # The first has two powers of the norm of each matrix (2, G, 1, 1), or it is the eigenvalues (G, F).
    gradient = gradient_by_products if saved[0].dim() == 4 else gradient_by_eigenvalues
    return gradient(saved, left, right, dtype)


# --- by products -----------------------------------------------------------------------------------------------------
#
# A step changes nothing if y is divided by a number and z is multiplied by it. For a matrix a with the norm s, the
# first t is 1.5 - a / 2s. With z = t / sqrt(s) after the first step, y is a z, and the last z is the root itself.
#
# All matrices of the iteration lie in one tensor (3 * iterations, G, F, F), so that products of neighbours are one
# batch, and so are copies. Their order is
#
#     -a / 2s^2,  a,  z, t, y of the second step,  z, t, y of the third step,  ...,  the root.


def by_products(matrix: Tensor, iterations: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`root_of` by products of matrices."""
    with true_float32(matrix):
        size = matrix.shape[-1]
        scale = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
        powers = scale ** table(exponents, like=matrix)
        matrices = matrix.new_empty(3 * iterations, *matrix.shape)
        # a and a - 3s. The latter is NaN where the norm overflows, because of zeros that are multiplied by infinity.
        write(matrices[1:3], torch.addcmul, matrix, scale, table(zero_and_identity, size, like=matrix), value=-3)
        write(matrices[:3:2], torch.addcdiv, table(zero, like=matrix), matrices[1:3], powers, value=-0.5)
        if iterations > 1:
            put(matrices[4], matrices[1], matrices[2])
        for i in range(2, len(matrices) - 1, 3):
            z, t, y = matrices[i : i + 3].unbind()
            put(t, z, y, table(identity, size, like=matrix), 1.5, -0.5)
            if i + 4 < len(matrices):
                put_both(matrices[i + 3 : i + 6 : 2], matrices[i + 1 : i + 3], matrices[i : i + 2])
            else:
                put(matrices[-1], t, z)
        return matrices[-1], (powers, matrices)


def gradient_by_products(saved: tuple[Tensor, ...], left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """`twice_gradient` of `by_products`.

    A function of a symmetric matrix that is a power series has a symmetric derivative. So, if the norm were constant,
    the gradient would be the derivative in the direction of the gradient of the root. The derivative d of each matrix x
    of the iteration is computed along with it: as a block of x d, 0 x, where the upper row of one block matrix times
    the right column of another is the product rule.

    What flows through the norm is a multiple of the matrix. How much follows from the degree of the root, which is
    -1/2: the scalar product of matrix and gradient is -1/2 times that of the root and its gradient.
    """
    powers, matrices = saved
    with true_float32(matrices):
        of_root = wide_matmul(left.mT, right)
        blocks = matrices.new_empty(*matrices.shape[:2], 2, matrices.shape[2], 2, matrices.shape[3])
        blocks[1:-1].diagonal(0, 2, 4).copy_(matrices[1:-1, ..., None])
        d, upper, right = blocks[:, :, 0, :, 1], blocks[:, :, 0].flatten(3), blocks[..., 1, :].flatten(2, 3)
        write(d[1], torch.lerp, of_root, of_root.mT, 0.5)
        last = 0 if len(matrices) == 3 else 2
        write(d[last], torch.addcdiv, table(zero, like=matrices), d[1], powers[1], value=-0.5 if last else -1)
        if last:
            put(d[4], upper[1], right[2])
        for i in range(2, len(matrices) - 1, 3):
            z, t, y = i, i + 1, i + 2
            put(d[t], upper[z], right[y], alpha=-0.5)
            if i + 4 < len(matrices):
                put_both(d[i + 3 : i + 6 : 2], upper[t : y + 1], right[z : t + 1])
            else:
                put(d[0], upper[t], right[z], alpha=2)
        # d[0] is twice the derivative of the root, and d[1] is its direction.
        along = (d[:2] * matrices[1 :: len(matrices) - 2]).sum((0, -2, -1)).view(-1, 1, 1)
        twice = d.new_empty(d.shape[1:], dtype=dtype)
        write(twice, torch.addcmul, d[0], matrices[0], along, value=2)
        return twice


def exponents(dtype: torch.dtype, device: torch.device) -> Tensor:
    """2 and 1.5, as (2, 1, 1, 1)."""
    return torch.arange(2, 1, -0.5, dtype=dtype, device=device).view(2, 1, 1, 1)


def zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zero without dimensions."""
    return torch.zeros((), dtype=dtype, device=device)


def zero_and_identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix of zeros and the identity, (2, 1, size, size)."""
    one = identity(size, dtype, device)
    return torch.stack([torch.zeros_like(one), one])[:, None]


def put(out: Tensor, a: Tensor, b: Tensor, added: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> None:
    """Writes beta * added + alpha * a @ b to `out`; stacks of matrices (G, F, F)."""
    if torch.compiler.is_compiling():
        out.copy_(addmm(out if added is None else added, a, b, beta, alpha))
    else:
        torch.baddbmm(out if added is None else added, a, b, beta=beta, alpha=alpha, out=out)


def put_both(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Writes a[0] @ b[0] and a[1] @ b[1] to `out`; pairs of stacks of matrices (2, G, F, F)."""
    if out.shape[1] == 1 and launches.count(out):  # one batch of two products
        put(out[:, 0], a[:, 0], b[:, 0])
    else:
        for i in (0, 1):
            put(out[i], a[i], b[i])


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


def gradient_by_eigenvalues(saved: tuple[Tensor, ...], left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
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
    return symmetric_product(matmul(basis, inner.to(basis.dtype)), basis).to(dtype)
