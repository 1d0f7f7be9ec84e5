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

TOGETHER = 2**17  # the most numbers in the images that are filtered together: half a megabyte of float32


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
    single = [0] if size % 2 else [0, size // 2]
    return torch.cat([torch.tensor(single, device=device), pairs])


def basis(size: int, crop: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal real Fourier matrix: the cosines in the order of `frequencies`, then the sines.

    (size, kept): its columns are the pixels of the grid that are left after `crop` at both ends, every stride-th one.
    """
    half, pixels = frequencies(size, device), torch.arange(crop, size - crop, stride, device=device)
    # Turns are reduced while still integers, because the cosine of a large angle loses digits.
    angles = (half[:, None] * pixels % size).double() * (2 * math.pi / size)
    single = len(half) - paired(size)
    waves = torch.cat([angles.cos(), angles[single:].sin()]) * math.sqrt(2 / size)
    waves[:single] *= math.sqrt(1 / 2)
    return waves.to(dtype)


def acting(straight: Tensor, mirrored: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Filter:
    """The filter on a grid of a size (H, W), in a dtype, from halves of its symbol.

    straight (H // 2 + 1, W // 2 + 1, C): half of it at pairs of `frequencies`. mirrored: at the same with v negative.
    """
    h, w = (paired(each) for each in size)
    single_h, single_w = straight.shape[0] - h, straight.shape[1] - w
    even = (straight + mirrored).to(dtype)
    even = torch.cat([even, even[single_h:]])
    odd = straight[single_h:, single_w:] - mirrored[single_h:, single_w:]
    return Filter(torch.cat([even, even[:, single_w:]], 1), odd.to(dtype))


def filtered(images: Tensor, result: Tensor, filter: Filter, rows: Axis, columns: Axis) -> None:
    """Filters images (N, given rows, given columns, C) and writes them to `result`, (N, kept rows, kept columns, C).

    They may have any strides and any dtype; the filter is applied in its own. Few images are filtered at a time, so
    that what is between stays in the cache. A compiler is given all at once, because it would unroll the loop.
    """
    some = len(images) if torch.compiler.is_compiling() else max(1, TOGETHER // filter.even.numel())
    batch = None
    for given, kept in zip(images.split(some), result.split(some), strict=True):
        if batch is None or batch.count != len(given):
            batch = Batch(len(given), filter, rows, columns)
        batch.filter(given, kept)


class Batch:
    """A fixed number of images, and the memory to filter them in, which every call uses again."""

    def __init__(self, count: int, filter: Filter, rows: Axis, columns: Axis):
        self.count, self.even, self.odd = count, filter.even, filter.odd
        height, width, channels = filter.even.shape
        (kept, _), (_, given) = rows.synthesis.shape, rows.analysis.shape
        (kept_across, _), (_, given_across) = columns.synthesis.shape, columns.analysis.shape
        # One matrix for all images, or for all their rows.
        self.into_columns = columns.analysis.expand(count * given, -1, -1)
        self.into_rows = rows.analysis.expand(count, -1, -1)
        self.out_of_rows = rows.synthesis.expand(count, -1, -1)
        self.out_of_columns = columns.synthesis.expand(count * kept, -1, -1)
        # The results of the steps take turns in two places.
        one, other = (filter.even.new_empty(count * filter.even.numel()) for _ in range(2))
        self.pixels = within(one, count, given, given_across, channels)
        self.half_way = within(other, count, given, width, channels)
        self.spectrum = within(one, count, height, width, channels)
        self.scaled = within(other, count, height, width, channels)
        self.returning = within(one, count, kept, width, channels)
        self.result = within(other, count, kept, kept_across, channels)
        h, w = filter.odd.shape[:2]
        self.pairs = [
            (block(self.scaled, h, w, i, j), block(self.spectrum, h, w, 1 - i, 1 - j), -1 if i == j else 1)
            for i in (0, 1)
            for j in (0, 1)
        ]

    def filter(self, given: Tensor, kept: Tensor) -> None:
        """Writes the filtered images `given` to `kept` (see `filtered`)."""
        pixels = given if self.takes(given) else self.pixels.copy_(given)
        result = kept if self.takes(kept) else self.result
        torch.bmm(self.into_columns, pixels.flatten(0, 1), out=self.half_way.flatten(0, 1))
        torch.bmm(self.into_rows, self.half_way.flatten(2), out=self.spectrum.flatten(2))
        torch.mul(self.spectrum, self.even, out=self.scaled)
        for here, partner, sign in self.pairs:
            here.addcmul_(partner, self.odd, value=sign)
        torch.bmm(self.out_of_rows, self.scaled.flatten(2), out=self.returning.flatten(2))
        torch.bmm(self.out_of_columns, self.returning.flatten(0, 1), out=result.flatten(0, 1))
        if result is not kept:
            kept.copy_(result)

    def takes(self, images: Tensor) -> bool:
        """Whether products can read images from where they are, or write them there."""
        return images.dtype == self.even.dtype and images.is_contiguous()


def within(place: Tensor, *shape: int) -> Tensor:
    """A tensor of a shape in the first numbers of a one-dimensional one."""
    return place[: math.prod(shape)].view(shape)


def block(z: Tensor, h: int, w: int, i: int, j: int) -> Tensor:
    """Of coefficients (N, H, W, C) those of cosines (i = 0) or sines (i = 1) along rows, and likewise j along columns.

    They are (N, h, w, C), without the frequencies that have no sine.
    """
    top, left = z.shape[1] - (2 - i) * h, z.shape[2] - (2 - j) * w
    return z[:, top : top + h, left : left + w]
