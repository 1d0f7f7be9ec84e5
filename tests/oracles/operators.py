"""Layers as dense matrices, entry by entry, for their singular values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def dense(layer: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The matrix (outputs, inputs) of a linear map of images (N, C, H, W), from its values at the unit images.

    shape: (C, H, W). A constant that the layer adds is taken off.
    """
    size = shape[0] * shape[1] * shape[2]
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    constant = layer(torch.zeros(1, *shape, dtype=torch.float64))
    return (layer(units) - constant).flatten(1).T


def singular_values(layer: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> Tensor:
    """Those of `dense`, from the largest one on."""
    return torch.linalg.svdvals(dense(layer, shape).detach())


def spread(weight: Tensor, dilation: int | tuple[int, int]) -> Tensor:
    """The kernel (out, in, kh', kw') of a convolution that is not dilated: a weight's taps, with zeros between them."""
    down, across = (dilation, dilation) if isinstance(dilation, int) else dilation
    kh, kw = weight.shape[2:]
    rows = torch.zeros(down * (kh - 1) + 1, kh, dtype=weight.dtype)
    columns = torch.zeros(across * (kw - 1) + 1, kw, dtype=weight.dtype)
    for tap in range(kh):
        rows[down * tap, tap] = 1
    for tap in range(kw):
        columns[across * tap, tap] = 1
    return rows @ weight @ columns.T
