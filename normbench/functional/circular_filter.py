"""The circular filters of ConvNorm (Liu et al., arXiv 2103.00673): computing them from a kernel, and applying them.

The symbol of a filter is its frequency response: one factor per frequency. Where a kernel is dilated, `dilation` says
by how many rows and columns its neighbouring taps are apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normbench.functional import real_fourier
from normbench.functional.pairs import Pair
from normbench.functional.products import matmul, true_float32
from normbench.functional.tables import table

# The pixels of a grid that are left after cropping so many rows and columns at each border, and taking every n-th one.
Window = tuple[Pair, Pair]


def inverse_spectrum_norm(weight: Tensor, height: int, width: int, dilation: Pair = (1, 1)) -> Tensor:
    """The reciprocal norm of each output channel's kernel spectrum, (out, height, width), without an eps.

    weight: (out, in, kh, kw). height, width: the grid of frequencies. The norm is taken over input channels.
    """
    cosines = table(all_cosines, *weight.shape[2:], *dilation, height, width, like=weight)
    return inverse_root(matmul(autocorrelation(weight), cosines)).view(len(weight), height, width)


def autocorrelation(weight: Tensor) -> Tensor:
    """The autocorrelation of each output channel's kernel, summed over input channels: (out, L).

    weight: (out, in, kh, kw). It is the same for opposite offsets, and each of these pairs is summed up to one of the L
    numbers, in the order of `lags`. The squared norm of the spectrum is their cosine transform.
    """
    out, channels, kh, kw = weight.shape
    last = weight.permute(0, 2, 3, 1).reshape(out, kh * kw, channels)
    return matmul(matmul(last, last.mT).view(out, -1), table(pairs_of_lags, kh, kw, like=weight))


def inverse_root(square: Tensor) -> Tensor:
    """1 / sqrt(square), in place. What rounding has made negative counts as zero."""
    return square.clamp_min_(0).rsqrt_()


def lags(kh: int, kw: int, device: torch.device) -> Tensor:
    """The offsets between two taps of a kernel, in taps, one of each pair of opposite ones: int64 (L, 2)."""
    rows, columns = torch.arange(kh, device=device), torch.arange(1 - kw, kw, device=device)
    return torch.cartesian_prod(rows, columns)[kw - 1 :]


def pairs_of_lags(kh: int, kw: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Which pairs of taps, (kh * kw)^2 of them, have which of the `lags`, as ones: (kh^2 kw^2, L)."""
    taps = torch.cartesian_prod(torch.arange(kh, device=device), torch.arange(kw, device=device))
    offset = (taps[:, None] - taps).view(-1, 1, 2)
    known = lags(kh, kw, device)
    return ((offset == known).all(2) | (offset == -known).all(2)).to(dtype)


def cosines(kernel: Pair, dilation: Pair, grid: Pair, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """cos(2 pi (u i / H + v j / W)) for all `lags` of a kernel, (i, j) in pixels, and frequencies (u, v): (L, R, S).

    grid: (H, W). rows, columns: u and v, int64 (R,) and (S,).
    """
    lag = lags(*kernel, rows.device)
    lag = torch.stack([lag[:, 0] * dilation[0], lag[:, 1] * dilation[1]], 1)
    # Reduced modulo the size while still an integer, because the cosine of a large angle loses digits.
    down, across = (
        (lag[:, axis, None] * frequency % size).to(dtype) * (2 * math.pi / size)
        for axis, (frequency, size) in enumerate(zip((rows, columns), grid, strict=True))
    )
    return torch.cos(down[:, :, None] + across[:, None, :])


def all_cosines(
    kh: int, kw: int, down: int, across: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`cosines` at all frequencies of a grid, (L, height * width). down, across: the dilation."""
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    return cosines((kh, kw), (down, across), (height, width), rows, columns, dtype).flatten(1)


def half_of_cosines(
    kh: int, kw: int, down: int, across: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`cosines` at frequencies with v up to half the width, (L, height * (width // 2 + 1)). down, across: dilation."""
    rows, columns = torch.arange(height, device=device), torch.arange(width // 2 + 1, device=device)
    return cosines((kh, kw), (down, across), (height, width), rows, columns, dtype).flatten(1)


def cosines_of_pairs(
    kh: int, kw: int, down: int, across: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`cosines` at pairs of `real_fourier.frequencies`, then at the same with v negative, each times 4.

    (2 * (height // 2 + 1) * (width // 2 + 1), L). With the factor, the reciprocal root is half of what it is without.
    down, across: the dilation.
    """
    rows, columns = (real_fourier.frequencies(size, device) for size in (height, width))
    both = [
        cosines((kh, kw), (down, across), (height, width), rows, sign * columns, dtype).flatten(1) for sign in (1, -1)
    ]
    return 4 * torch.cat(both, 1).T.contiguous()


def filter_of(
    weight: Tensor, height: int, width: int, dtype: torch.dtype, dilation: Pair = (1, 1)
) -> tuple[Tensor, ...]:
    """What `filtered` needs to divide channels by the norms of their kernels' spectra, as constants for the gradient.

    weight: (out, in, kh, kw). height, width: of the images. dtype: of the arithmetic, float32 or float64. On a CPU the
    result is a `Filter`, elsewhere the symbol at frequencies up to half the width, (out, height, width // 2 + 1).
    """
    if weight.device.type != "cpu":
        return Symbols([weight], dilation).at(height, width, dtype)
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        correlation = autocorrelation(exact(weight))
        cosines = table(cosines_of_pairs, *weight.shape[2:], *dilation, height, width, like=correlation)
        halves = inverse_root(cosines @ correlation.T)
        straight, mirrored = halves.view(2, height // 2 + 1, width // 2 + 1, -1)
        return real_fourier.acting(straight, mirrored, (height, width), dtype)


def exact(weight: Tensor) -> Tensor:
    """The weight in float64 where possible, as the square of a spectrum near zero has no correct digit in float32."""
    return weight.to(torch.float32 if weight.device.type == "mps" else torch.float64)


class Symbols:
    """The symbols of the filters of several kernels (see `filter_of`), computed together for each size of images.

    The size is known once the first of the layers meets its images. The symbols of all of them are computed then, so
    that none hangs on what sizes an earlier pass had.
    weights: (out, in, kh, kw), with the same in, kh and kw. They are constants for the gradient. dilation: of all.
    """

    def __init__(self, weights: Sequence[Tensor], dilation: Pair = (1, 1)):
        self.kernel, self.channels = weights[0].shape[2:], [len(weight) for weight in weights]
        self.dilation = dilation
        with torch.autocast(weights[0].device.type, enabled=False), torch.no_grad():
            self.correlation = autocorrelation(exact(torch.cat(list(weights)) if len(weights) > 1 else weights[0]))
        self.known: dict[tuple[int, int, torch.dtype], tuple[Tensor, ...]] = {}

    def at(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Those at frequencies up to half the width of images (height, width): (out, height, width // 2 + 1) each."""
        if (height, width, dtype) not in self.known:
            with torch.autocast(self.correlation.device.type, enabled=False), torch.no_grad():
                form = (*self.kernel, *self.dilation, height, width)
                cosines = table(half_of_cosines, *form, like=self.correlation)
                symbols = inverse_root(self.correlation @ cosines).to(dtype).view(-1, height, width // 2 + 1)
                self.known[height, width, dtype] = symbols.split(self.channels)
        return self.known[height, width, dtype]


def filtered(x: Tensor, filter: tuple[Tensor, ...], crop: Pair, stride: Pair) -> Tensor:
    """Circularly filters each channel of images, then crops and strides them: (N, C, H, W) -> (N, C, H', W').

    filter: from `filter_of`. crop: rows and columns to remove at each border. stride: every stride-th remaining row and
    column is kept. The result has the dtype and memory format of x; the gradient of x, those of the result's gradient.

    A CPU multiplies by Fourier matrices, which takes a sixth to four fifths of the time of fast transforms at the usual
    sizes of a grid, 2^k + 2. Other devices transform, because CUDA may round products to TF32.
    """
    return (Products if len(filter) == 2 else Transforms).apply(x, *filter, crop, stride)


class Products(torch.autograd.Function):
    """A circular filter by products with real Fourier matrices.

    As its symbol is real and even, the filter is its own adjoint, so the backward pass needs nothing else.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, even: Tensor, odd: Tensor, crop: Pair, stride: Pair) -> Tensor:
        """x (N, C, H, W) -> (N, C, H', W'). even, odd: see `real_fourier.Filter`. crop, stride: see `filtered`."""
        ctx.save_for_backward(even, odd)
        ctx.crop, ctx.stride = crop, stride
        return by_products(x, even, odd, ((0, 0), (1, 1)), (crop, stride))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        even, odd = ctx.saved_tensors
        return by_products(gradient, even, odd, (ctx.crop, ctx.stride), ((0, 0), (1, 1))), None, None, None, None


def by_products(x: Tensor, even: Tensor, odd: Tensor, given: Window, kept: Window) -> Tensor:
    """Filters images x (N, C, H', W') that lie at the pixels `given` of the grid, and returns those at `kept`."""
    down, across = (
        real_fourier.Axis(
            table(real_fourier.basis, size, given[0][axis], given[1][axis], like=even),
            table(transposed_basis, size, kept[0][axis], kept[1][axis], like=even),
        )
        for axis, size in enumerate(even.shape[:2])
    )
    size = (len(x), x.shape[1], len(down.synthesis), len(across.synthesis))
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    last, kept_last = x.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)
    with torch.autocast(x.device.type, enabled=False), true_float32(x):
        real_fourier.filtered(last, kept_last, real_fourier.Filter(even, odd), down, across)
    return result


def transposed_basis(size: int, crop: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The transpose of `real_fourier.basis`."""
    return real_fourier.basis(size, crop, stride, dtype, device).T.contiguous()


class Transforms(torch.autograd.Function):
    """A circular filter by fast Fourier transforms. Its symbol is real and even, so that it is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, symbol: Tensor, crop: Pair, stride: Pair) -> Tensor:
        """x (N, C, H, W), symbol (C, H, W // 2 + 1) -> (N, C, H', W'). crop, stride: see `filtered`."""
        ctx.save_for_backward(symbol)
        ctx.size, ctx.crop, ctx.stride = x.shape[2:], crop, stride
        rows, columns = (slice(c, size - c, s) for c, size, s in zip(crop, x.shape[2:], stride, strict=True))
        return in_form_of(transformed(x.to(symbol.dtype), symbol)[:, :, rows, columns], x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (symbol,) = ctx.saved_tensors
        (height, width), (top, left) = ctx.size, ctx.crop
        if ctx.stride == (1, 1):
            images = functional.pad(gradient.to(symbol.dtype), (left, left, top, top))
        else:
            images = gradient.new_zeros(*gradient.shape[:2], height, width, dtype=symbol.dtype)
            images[:, :, top : height - top : ctx.stride[0], left : width - left : ctx.stride[1]] = gradient
        return in_form_of(transformed(images, symbol), gradient), None, None, None


def in_form_of(images: Tensor, other: Tensor) -> Tensor:
    """Images in the dtype and the memory format of others, in memory of their own."""
    return images.to(other.dtype, memory_format=memory_format(other), copy=True)


def transformed(images: Tensor, symbol: Tensor) -> Tensor:
    """Real images (N, C, H, W) after the circular filter with this symbol (C, H, W // 2 + 1)."""
    size = images.shape[2:]
    spectrum = torch.fft.rfft2(images)
    del images  # to free memory as large as the batch
    return torch.fft.irfft2(spectrum.mul_(symbol), s=size)


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last if images x are certainly in it, else contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
