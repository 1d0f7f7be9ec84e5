"""Products of matrices that are known to be symmetric."""

from __future__ import annotations

from torch import Tensor

SMALL_BLOCK = 128  # rows of a block, below which splitting a product does not pay off


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.mT for a, b (G, F, K) of which it is known that the result (G, F, F) is symmetric.

    On a CPU, only the lower triangle of blocks is computed, by recursion; the rest follows by symmetry.
    """
    result = a.new_empty(*a.shape[:-1], b.shape[-2])
    _fill(result, a, b)
    return result


def _fill(result: Tensor, a: Tensor, b: Tensor) -> None:
    half = a.shape[-2] // 2
    if a.device.type != "cpu" or half < SMALL_BLOCK:
        result.copy_(a @ b.mT)
        return
    corner = a[..., half:, :] @ b[..., :half, :].mT
    result[..., half:, :half] = corner
    result[..., :half, half:] = corner.mT
    _fill(result[..., :half, :half], a[..., :half, :], b[..., :half, :])
    _fill(result[..., half:, half:], a[..., half:, :], b[..., half:, :])
