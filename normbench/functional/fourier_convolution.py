"""The convolution and the circular filter of ConvNorm at once, by products of spectra, where weights do not change.

The filter acts on the grid of a full convolution, and there the full convolution is a circular one of images that are
padded with zeros. So both are one matrix (out, in) for each frequency, which multiplies the channels of an image's
spectrum. A cropped and strided result is synthesized at its own pixels only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normbench.functional.circular_filter import inverse_spectrum_norm, memory_format
from normbench.functional.pairs import Pair
from normbench.functional.products import matmul

TOGETHER = 64  # images at a time: enough that reading the spectrum of the kernel costs little for each
WIDE = 64  # input channels from which the product takes as long as reading the spectrum, which is then kept smaller
LARGEST = 2**25  # numbers in the spectrum of a kernel: 128 megabytes of float32


class FourierConvolution:
    """A normalized full convolution on images of one size, cropped and strided: (N, C, H, W) -> (N, O, H', W').

    weight: (O, C, kh, kw). size: (H, W) of the images. crop: rows and columns of the full convolution to remove at each
    border. stride: every stride-th remaining row and column is kept. dtype: of the arithmetic, float32 or float64.
    Differentiable with respect to the images. A result has the dtype and the memory format of its images.
    """

    def __init__(self, weight: Tensor, size: Pair, crop: Pair, stride: Pair, dtype: torch.dtype):
        grid = size[0] + weight.shape[2] - 1, size[1] + weight.shape[3] - 1
        rows, columns = (
            torch.arange(cut, points - cut, step) for cut, points, step in zip(crop, grid, stride, strict=True)
        )
        self.kept = len(rows), len(columns)
        # Frequencies (u, v) with u up to half the grid are enough: the others belong to complex conjugates.
        half = torch.arange(grid[0] // 2 + 1)
        every = torch.arange(grid[1])
        u, v = angles(half, torch.arange(size[0]), grid[0]), angles(every, torch.arange(size[1]), grid[1])
        # From rows to cosines and sines, a - ib; then from columns, to the real and the imaginary part.
        self.into_rows = torch.stack([u.cos(), u.sin()], 1).flatten(0, 1).to(dtype)
        parts = torch.stack([v.cos(), -v.sin()], 1), torch.stack([-v.sin(), -v.cos()], 1)
        self.into_columns = torch.stack(parts, 1).flatten(2).flatten(0, 1).to(dtype)
        u, v = angles(rows, half, grid[0]), angles(columns, every, grid[1])
        parts = torch.stack([v.cos(), -v.sin()], 2), torch.stack([v.sin(), v.cos()], 2)
        self.out_of_columns = (torch.stack(parts).flatten(2).flatten(0, 1) / grid[1]).to(dtype)
        times = torch.where((half == 0) | (2 * half == grid[0]), 1, 2)  # how often a frequency or its opposite occurs
        self.out_of_rows = (torch.stack([u.cos(), -u.sin()], 2) * times[:, None] / grid[0]).flatten(1).to(dtype)
        self.spectrum = spectrum_of(weight, grid, dtype)

    def __call__(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            done = [self.some(part) for part in images.to(self.spectrum.dtype).split(TOGETHER)]
        result = done[0] if len(done) == 1 else torch.cat(done)
        return result.to(images.dtype, memory_format=memory_format(images))

    def some(self, images: Tensor) -> Tensor:
        """The convolution of some images, in channels_last format."""
        count, channels, height, width = images.shape
        # The images are innermost, so that each step is a product with many columns.
        y = matmul(self.into_rows, images.permute(2, 3, 1, 0).reshape(height, -1))
        frequencies = len(self.into_rows) // 2
        y = matmul(self.into_columns.expand(frequencies, -1, -1), y.view(frequencies, 2 * width, -1))
        y = self.multiplied(y.view(len(self.spectrum), 2, channels, count))
        y = matmul(
            self.out_of_columns.expand(frequencies, -1, -1), y.view(frequencies, self.out_of_columns.shape[1], -1)
        )
        y = matmul(self.out_of_rows, y.view(2 * frequencies, -1))
        return y.view(-1, count).T.contiguous().view(count, *self.kept, -1).permute(0, 3, 1, 2)

    def multiplied(self, x: Tensor) -> Tensor:
        """The spectrum of images, x (F, 2, C, N), real and imaginary parts, times that of the kernel: (F, 2 O, N)."""
        if self.spectrum.shape[2] > x.shape[2]:
            return matmul(self.spectrum, x.flatten(1, 2))
        y, other = matmul(self.spectrum, x[:, 0]), matmul(self.spectrum, x[:, 1])
        out = y.shape[1] // 2
        y[:, :out] -= other[:, out:]
        y[:, out:] += other[:, :out]
        return y


def fits(weight: Tensor, size: Pair) -> bool:
    """Whether the spectrum of a kernel, on the grid of the full convolution of images of a size, is not too large."""
    out, channels, kh, kw = weight.shape
    frequencies = ((size[0] + kh - 1) // 2 + 1) * (size[1] + kw - 1)
    return frequencies * out * channels * (2 if channels >= WIDE else 4) <= LARGEST


def spectrum_of(weight: Tensor, grid: Pair, dtype: torch.dtype) -> Tensor:
    """The normalized spectrum A + iB of a kernel (O, C, kh, kw) on a grid, as real matrices for F frequencies.

    With few channels they are [[A, -B], [B, A]], (F, 2 O, 2 C), else the first half of the columns, (F, 2 O, C).
    """
    out, channels, kh, kw = weight.shape
    # float64 because near zeros of the spectrum, its norm has no correct digit in float32.
    exact = weight.to(torch.float64)
    spectrum = torch.fft.rfft2(exact, s=(grid[1], grid[0]), dim=(3, 2))
    # A convolution layer correlates: its spectrum is the conjugate one, times a shift by the kernel's last tap.
    u, v = torch.arange(grid[0] // 2 + 1), torch.arange(grid[1])
    shift = -(angles(u, torch.tensor([kh - 1]), grid[0]) + angles(v, torch.tensor([kw - 1]), grid[1])[:, 0])
    norm = inverse_spectrum_norm(exact, *grid)[:, : len(u)]
    spectrum = spectrum.conj() * (norm * torch.polar(torch.ones_like(shift), shift))[:, None]
    matrices = spectrum.permute(2, 3, 0, 1).reshape(-1, out, channels)
    result = weight.new_empty(len(matrices), 2, out, 1 if channels >= WIDE else 2, channels, dtype=dtype)
    result[:, 0, :, 0], result[:, 1, :, 0] = matrices.real, matrices.imag
    if channels < WIDE:
        result[:, 0, :, 1], result[:, 1, :, 1] = -matrices.imag, matrices.real
    return result.view(len(matrices), 2 * out, -1)


def angles(one: Tensor, other: Tensor, points: int) -> Tensor:
    """2 pi j k / points for all j of one (J,) and k of the other (K,), whole numbers: float64 (J, K)."""
    # Turns are reduced while still integers, because the cosine of a large angle loses digits.
    return (one[:, None] * other % points).double() * (2 * math.pi / points)
