"""Kernels of convolutions as stacks of matrices, and the largest singular values of such stacks.

Everything is computed in float64, whatever the precision of the weights. The result then differs from the formula only
by its final rounding, even on GPUs that multiply float32 numbers with a 10-bit mantissa (TF32).

On CUDA nothing here makes the host wait: the eigenvectors come from products of matrices, because torch's solvers for
eigenvalues read on the host whether they have converged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SQUARINGS, AT_ONCE = 40, 4  # of a Gram matrix, and those between two divisions by its largest entry


def four_dimensional(weight: Tensor) -> Tensor:
    """A weight (out, in/groups, kh, kw) unchanged, or a matrix (out, in) as a 1x1 kernel. Else raises ValueError."""
    if weight.dim() == 2:
        return weight[:, :, None, None]
    if weight.dim() != 4:
        raise ValueError(f"a weight of shape {tuple(weight.shape)}: expected (out, in/groups, kh, kw) or (out, in)")
    return weight


def keeps_going(x: Tensor) -> bool:
    """Whether the device of a tensor works through a queue, so that the host should not look at its numbers."""
    return x.is_cuda


def by_group(weight: Tensor, groups: int) -> Tensor:
    """The kernels (groups, out/groups, in/groups, kh, kw) of a weight, in float64.

    weight: (out, in/groups, kh, kw), or (out, in). Raises ValueError for another shape, for a number of outputs that
    `groups` does not divide, and for a weight with NaN or infinity. On CUDA the host does not look for these, as it
    would have to wait; every norm of such a weight is NaN there.
    """
    weight = four_dimensional(weight)
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} output channels do not divide into {groups} groups")
    if not keeps_going(weight) and not weight.isfinite().all():
        raise ValueError("the weight holds NaN or infinity: it has no norm")
    # MPS has neither float64 nor eigenvalues.
    device = "cpu" if weight.device.type == "mps" else weight.device
    return weight.to(device, torch.float64).unflatten(0, (groups, -1))


def spread(weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel (out, in/groups, kh', kw') of a dilated convolution: the taps of a weight with zeros between them.

    weight: (out, in/groups, kh, kw), or (out, in). kh' = (kh - 1) * dilation[0] + 1, and kw' likewise.
    """
    weight = four_dimensional(weight)
    sides = [(taps - 1) * apart + 1 for taps, apart in zip(weight.shape[2:], dilation, strict=True)]
    found = weight.new_zeros(*weight.shape[:2], *sides)
    found[:, :, :: dilation[0], :: dilation[1]] = weight
    return found


def polyphase(weight: Tensor, stride: int) -> Tensor:
    """The stride-1 kernel that is equivalent to a strided convolution: (out, in/groups * stride^2, kh', kw').

    weight: (out, in/groups, kh, kw), or (out, in). kh' and kw' are kh and kw divided by the stride, rounded up.

    The strided convolution is this one applied to the stride^2 sub-images of every channel (`pixel_unshuffle`), with
    the same groups. So every bound of this kernel holds for it, and `exact_norm` of this kernel at size n is exact for
    circular padding of images of size n*stride.
    """
    weight = four_dimensional(weight)
    height, width = weight.shape[2:]
    padded = functional.pad(weight, (0, -width % stride, 0, -height % stride))
    phases = padded.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))  # (out, in, kh', stride, kw', stride)
    return phases.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def smaller_gram(matrices: Tensor) -> Tensor:
    """M M^H or M^H M, whichever is smaller, of matrices (..., m, n)."""
    rows, columns = matrices.shape[-2:]
    return matrices @ matrices.mH if rows <= columns else matrices.mH @ matrices


def largest_singular_value(matrices: Tensor) -> Tensor:
    """The largest singular value (...) of matrices (..., m, n), real or complex.

    Its gradient is that of one pair of singular vectors, and 0 at a zero matrix.
    """
    if min(matrices.shape[-2:]) == 1:
        return torch.linalg.vector_norm(matrices, dim=(-2, -1))
    # Forming the Gram matrix loses digits of the small singular values, but not of the largest one.
    with torch.no_grad():
        gram = smaller_gram(matrices)
        if keeps_going(matrices):
            vectors = top_eigenvectors(gram)
        elif matrices.requires_grad:
            vectors = torch.linalg.eigh(gram).eigenvectors[..., -1:]
        else:
            return torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
    # The norm of M v, v held constant, has the gradient u v^H; that of an eigenvalue takes products of whole matrices.
    tall = matrices.mH if matrices.shape[-2] <= matrices.shape[-1] else matrices  # as in the Gram matrix
    return torch.linalg.vector_norm(tall @ vectors, dim=(-2, -1))


def top_eigenvectors(gram: Tensor) -> Tensor:
    """An eigenvector (..., n, 1) of norm 1 for the largest eigenvalue of positive matrices (..., n, n), by squaring.

    A matrix to the power 2^40 is the projection on its largest eigenvalues, those that agree in some 11 digits; the
    column of its largest diagonal entry lies in their space. Matrices of zeros have the vector zero.
    """
    for _ in range(0, SQUARINGS, AT_ONCE):
        # The largest entry of a positive matrix is on the diagonal. It is 1 now, and at most n^15 four squarings later.
        largest = gram.diagonal(dim1=-2, dim2=-1).real.amax(-1)[..., None, None]
        gram = gram / torch.where(largest == 0, 1, largest)
        for _ in range(AT_ONCE):
            gram = gram @ gram
    index = gram.diagonal(dim1=-2, dim2=-1).real.argmax(-1)[..., None, None]
    column = gram.take_along_dim(index, -1)
    length = torch.linalg.vector_norm(column, dim=-2, keepdim=True)
    return column / torch.where(length == 0, 1, length)
