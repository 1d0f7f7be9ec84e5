"""Strides of orthogonal convolutions: the pixels of a block become channels, so that none of them is lost."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def blocks(x: Tensor, stride: int) -> Tensor:
    """The pixels of each stride x stride block as channels: (N, C, H, W) -> (N, C * stride^2, H', W').

    Where the stride does not divide H or W, there are zeros below and on the right.
    """
    if stride == 1:
        return x
    below, right = -x.shape[2] % stride, -x.shape[3] % stride
    if below or right:
        x = functional.pad(x, (0, right, 0, below))
    return functional.pixel_unshuffle(x, stride)
