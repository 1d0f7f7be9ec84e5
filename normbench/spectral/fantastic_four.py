"""The four bounds of Singla and Feizi, ICLR 2021, arXiv 1911.10258, converged: by eigenvalues, not power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.spectral.kernels import by_group, largest_singular_value


def reshapings(kernels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The paper's R, S, T and U of kernels (L, o, i, h, w), each (L, rows, columns)."""
    count, o, i, h, w = kernels.shape
    return (
        kernels.transpose(2, 3).reshape(count, o * h, i * w),
        kernels.permute(0, 1, 4, 2, 3).reshape(count, o * w, i * h),
        kernels.reshape(count, o, i * h * w),
        kernels.transpose(1, 2).reshape(count, i, o * h * w),
    )


def four_bounds(kernels: Tensor) -> Tensor:
    """The four upper bounds on the norm of each kernel, (4, groups). kernels: (groups, out, in, kh, kw)."""
    taps = kernels.shape[3] * kernels.shape[4]
    return taps**0.5 * torch.stack([largest_singular_value(matrix) for matrix in reshapings(kernels)])


def bounds(weight: Tensor, *, groups: int = 1) -> Tensor:
    """The four upper bounds (4,), from R, S, T and U, on the norm of the convolution with this weight.

    weight: (out, in/groups, kh, kw), or (out, in). Each bound is sqrt(kh*kw) times the largest singular value of a
    matrix, and the largest over the groups. It holds for circular and zero padding of every size, every image size,
    stride and dilation. Differentiable: sqrt(kh*kw) times the outer product of the singular vectors.
    """
    return four_bounds(by_group(weight, groups)).amax(1).to(weight)


def fantastic_four(weight: Tensor, *, groups: int = 1) -> Tensor:
    """The least of the four upper bounds: valid wherever each of them is, and at most sqrt(kh*kw) times too large.

    With groups, the largest over the groups of the least bound of each. The gradient is that of one matrix alone.
    """
    return four_bounds(by_group(weight, groups)).min(0).values.max(0).values.to(weight)
