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


def check_size(layer: str, kernel_size: int, stride: int, padding: int, dilation: int) -> None:
    """Raises ValueError unless a convolution keeps the size but for its stride, and is not dilated with a stride.

    layer: the beginning of the message, such as "soc: an orthogonal".
    """
    wanted, kernel = dilation * (kernel_size // 2), f"{kernel_size}x{kernel_size} kernel"
    if padding != wanted:
        dilated = f" with dilation {dilation}" if dilation > 1 else ""
        raise ValueError(
            f"{layer} convolution keeps the size, so a {kernel}{dilated} has the padding {wanted}, not {padding}"
        )
    if kernel_size > 1 and min(stride, dilation) > 1:
        raise ValueError(f"{layer} convolution has a stride or a dilation, and not both, {stride} and {dilation}")
