"""Circular filters of real images by products with real Fourier matrices.

The rows of a real Fourier matrix are cosines and sines. It transforms the rows or the columns of images with one matrix
product, without a complex number. The operations for a pixel grow with the size of the grid, but a CPU does them at the
speed of products, so that up to grids of some hundred pixels they take less time than fast transforms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Filter(NamedTuple):
    """A symbol that is real and the same for opposite frequencies, as it acts on real Fourier coefficients.

    even (H, W, C): the mean of the symbol at a frequency (u, v) and at its mirror image (u, -v). It scales each
    coefficient. odd (h, w, C): half the difference, for the frequencies with a cosine and a sine along both axes (see
    `paired`). It mixes the coefficient of two cosines with that of two sines, and those of a cosine and a sine.
    """

    even: Tensor
    odd: Tensor


class Axis(NamedTuple):
    """The matrices of one axis of images: from the pixels that are given to the coefficients, and to the pixels kept.

    analysis: (size, given), synthesis: (kept, size), with the size of the grid on which the filter is circular. Pixels
    that are not given are zero.
    """

    analysis: Tensor
    synthesis: Tensor


def paired(size: int) -> int:
    """The number of frequencies, up to the sign, that have both a cosine and a sine on a grid."""
    return (size - 1) // 2


def frequencies(size: int, device: torch.device) -> Tensor:
    """The frequencies on a grid up to the sign, int64 (size // 2 + 1,): first those without a sine, 0 and size / 2."""
    pairs = torch.arange(1, paired(size) + 1, device=device)
    return torch.cat([torch.arange(0, size // 2 + 1, size // 2, device=device) if size % 2 == 0 else pairs.new_zeros(1), pairs])


def basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal real Fourier matrix, (size, size): the cosines in the order of `frequencies`, then the sines."""
    half, pixels = frequencies(size, device), torch.arange(size, device=device)
    # Turns are reduced while still integers, because the cosine of a large angle loses digits.
    angles = (half[:, None] * pixels % size).double() * (2 * math.pi / size)
    single = len(half) - paired(size)
    waves = torch.cat([angles.cos(), angles[single:].sin()]) * math.sqrt(2 / size)
    waves[:single] *= math.sqrt(1 / 2)
    return waves.to(dtype)


def acting(straight: Tensor, mirrored: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Filter:
    """The filter on a grid of a size (H, W), in a dtype, from its symbol.

    straight (C, H // 2 + 1, W // 2 + 1): the symbol at pairs of `frequencies`. mirrored: at the same with v negative.
    """
    h, w = (paired(each) for each in size)
    even, odd = (((straight + sign * mirrored) / 2).permute(1, 2, 0).to(dtype) for sign in (1, -1))
    single_h, single_w = even.shape[0] - h, even.shape[1] - w
    even = torch.cat([even, even[single_h:]])
    even = torch.cat([even, even[:, single_w:]], 1)
    return Filter(even.contiguous(), odd[single_h:, single_w:].contiguous())


def filtered(images: Tensor, filter: Filter, rows: Axis, columns: Axis) -> Tensor:
    """Images (N, given rows, given columns, C) after a filter: (N, kept rows, kept columns, C)."""
    count, given, _, channels = images.shape
    h, w = filter.odd.shape[:2]
    z = product(columns.analysis, images.reshape(count * given, -1, channels))
    z = product(rows.analysis, z.view(count, given, -1)).view(count, *filter.even.shape)
    scaled = z * filter.even
    for i in (0, 1):
        for j in (0, 1):
            there, other = block(scaled, h, w, i, j), block(z, h, w, 1 - i, 1 - j)
            there.addcmul_(other, filter.odd, value=-1 if i == j else 1)
    z = product(rows.synthesis, scaled.view(count, len(filter.even), -1))
    z = product(columns.synthesis, z.view(count * len(rows.synthesis), -1, channels))
    return z.view(count, len(rows.synthesis), -1, channels)


def product(matrix: Tensor, images: Tensor) -> Tensor:
    """matrix (P, Q) times each of images (N, Q, R): (N, P, R)."""
    return torch.bmm(matrix.expand(len(images), -1, -1), images)


def block(z: Tensor, h: int, w: int, i: int, j: int) -> Tensor:
    """Of coefficients (N, H, W, C) those of cosines (i = 0) or sines (i = 1) along rows, and likewise j along columns.

    They are (N, h, w, C), without the frequencies that have no sine.
    """
    top, left = z.shape[1] - (2 - i) * h, z.shape[2] - (2 - j) * w
    return z[:, top : top + h, left : left + w]
