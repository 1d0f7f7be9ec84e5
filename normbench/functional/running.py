"""Running statistics of layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def track(running: Sequence[Tensor], new: Sequence[Tensor], momentum: float) -> None:
    """Moves buffers towards new values of the same shapes, in place. momentum: the weight of the new values."""
    torch._foreach_lerp_(list(running), [value.to(own) for own, value in zip(running, new, strict=True)], momentum)


def unbiased(variance: Tensor, count: int) -> Tensor:
    """A biased variance of `count` values as an unbiased one. That of a single value stays zero."""
    return variance * (count / max(count - 1, 1))
