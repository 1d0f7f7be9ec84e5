"""The norms of a zero-padded convolution and of any affine layer, as operators on images of one size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

from normbench.spectral.kernels import by_group
from normbench.system.transfer import to_device


def zero_padded_norm(
    weight: Tensor,
    size: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    *,
    groups: int = 1,
    iterations: int = 100,
) -> Tensor:
    """Lower estimate of the norm of the zero-padded convolution on size x size images (or height, width).

    weight: (out, in/groups, kh, kw), or (out, in). padding: half the kernel if None. Power iteration from the same
    start every time: each iteration raises the estimate, never above the norm. The gradient is that of the last
    iterate as a constant. Raises ValueError where the kernel is larger than the padded image.
    """
    kernels = by_group(weight, groups)
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = kernels.shape[-2:]
    pad = (rows // 2, columns // 2) if padding is None else (padding, padding) if isinstance(padding, int) else padding
    if rows > height + 2 * pad[0] or columns > width + 2 * pad[1]:
        raise ValueError(f"a {rows}x{columns} kernel is larger than {height}x{width} images with padding {pad}")
    shape = (1, groups * kernels.shape[2], height, width)
    flat = kernels.flatten(0, 1)

    def unit(x: Tensor) -> Tensor:
        """Each group's channels with norm 1: the groups are operators of their own, and converge on their own."""
        return functional.normalize(x.reshape(groups, -1), dim=1, eps=1e-300).reshape(shape)

    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = unit(to_device(torch.randn(shape, generator=generator, dtype=torch.float64), flat.device))
        for _ in range(iterations):
            y = functional.conv2d(x, flat, stride=stride, padding=pad, groups=groups)
            x = unit(conv2d_input(shape, flat, y, stride=stride, padding=pad, groups=groups))
    y = functional.conv2d(x, flat, stride=stride, padding=pad, groups=groups)
    return torch.linalg.vector_norm(y.reshape(groups, -1), dim=1).max(0).values.to(weight)


def affine_norm(layer: Callable[[Tensor], Tensor], like: Tensor, *, iterations: int = 50) -> Tensor:
    """Lower estimate, 0-d, of the norm of the linear part of an affine function of tensors of the shape of `like`.

    layer: differentiable in its argument, in the dtype of `like`. Power iteration as in `zero_padded_norm`, in which
    the transpose is the gradient of the function.
    """
    generator = torch.Generator().manual_seed(0)
    start = to_device(torch.randn(like.shape, generator=generator, dtype=torch.float64), like.device)
    x = functional.normalize(start.to(like.dtype).flatten(), dim=0, eps=1e-300).view(like.shape)
    with torch.no_grad():
        constant = layer(torch.zeros_like(x))
    for _ in range(iterations):
        given = x.requires_grad_()
        with torch.enable_grad():
            y = layer(given)
        (x,) = torch.autograd.grad(y, given, y.detach() - constant)
        x = functional.normalize(x.flatten(), dim=0, eps=1e-300).view(like.shape)
    with torch.no_grad():
        return torch.linalg.vector_norm(layer(x) - constant)
