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
