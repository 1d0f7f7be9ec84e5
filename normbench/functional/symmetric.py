"""Products of matrices that are known to be symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.functional.products import matmul

SMALL_BLOCK = 128  # rows of a block, below which splitting a product does not pay off
SHORT_SUM = 1024  # terms of a sum, below which it does not either


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.mT, in true float32, for a, b (G, F, K) of which it is known that the result (G, F, F) is symmetric.

    On a CPU, only the lower triangle of blocks is computed, by recursion; the rest follows by symmetry.
    """
    if not splits(a):
        return matmul(a, b.mT)
    half = a.shape[-2] // 2
    top = symmetric_product(a[..., :half, :], b[..., :half, :])
    corner = matmul(a[..., half:, :], b[..., :half, :].mT)
    bottom = symmetric_product(a[..., half:, :], b[..., half:, :])
    return torch.cat([torch.cat([top, corner.mT], -1), torch.cat([corner, bottom], -1)], -2)


def splits(a: Tensor) -> bool:
    """Whether `symmetric_product` computes the product of a (G, F, K) in blocks."""
    return a.device.type == "cpu" and a.shape[-2] // 2 >= SMALL_BLOCK and a.shape[-1] >= SHORT_SUM
