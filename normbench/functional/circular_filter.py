"""The circular filters of ConvNorm (Liu et al., arXiv 2103.00673): computing them from a kernel, and applying them.

The symbol of a filter is its frequency response: one factor per frequency.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from normbench.functional import real_fourier
from normbench.functional.pairs import Pair

WHOLE = (slice(None), slice(None))
Window = tuple[slice, slice]


def inverse_spectrum_norm(weight: Tensor, height: int, width: int) -> Tensor:
    """The reciprocal norm of each output channel's kernel spectrum, (out, height, width), without an eps.

    weight: (out, in, kh, kw). height, width: the grid of frequencies. The norm is taken over input channels.
    """
    rows, columns = (torch.arange(size, device=weight.device) for size in (height, width))
    return inverse_norm_at(weight, (height, width), rows, columns)


def inverse_norm_at(weight: Tensor, grid: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """`inverse_spectrum_norm` on a grid at the frequencies of some rows and columns, int64 (R,) and (S,): (out, R, S).

    The squared norm is the Fourier transform of the kernel's autocorrelation, summed over input channels. As that has
    only (2kh-1)(2kw-1) taps, one product with a table of cosines replaces the transforms of all kernels.
    """
    out, _, kh, kw = weight.shape
    taps = weight.reshape(out, -1, kh * kw)
    products = taps.mT @ taps
    # The autocorrelation sums over pairs of taps with the same offset, from 1 - k to k - 1, stored modulo 2k - 1.
    place = (offsets(kh, weight)[:, None, :, None] * (2 * kw - 1) + offsets(kw, weight)[None, :, None, :]).reshape(-1)
    size = (2 * kh - 1) * (2 * kw - 1)
    correlation = weight.new_zeros(out, size).index_add_(1, place, products.reshape(out, -1))
    down, across = phases(kh, grid[0], rows, weight), phases(kw, grid[1], columns, weight)
    table = torch.cos(down[:, None, :, None] + across[None, :, None, :])
    return (correlation @ table.view(size, -1)).clamp_min_(0).rsqrt_().view(out, len(rows), len(columns))


def offsets(k: int, like: Tensor) -> Tensor:
    """The differences between tap positions, modulo 2k - 1; int64 (k, k)."""
    position = torch.arange(k, device=like.device)
    return (position[:, None] - position) % (2 * k - 1)


def phases(k: int, size: int, frequency: Tensor, like: Tensor) -> Tensor:
    """The angles 2 pi u lag / size for all lags, in the order of `offsets`, and frequencies u (U,): (2k - 1, U)."""
    lag = torch.arange(2 * k - 1, device=like.device)
    lag = torch.where(lag < k, lag, lag - (2 * k - 1))
    # Reduced modulo the size while still an integer, because the cosine of a large angle loses digits.
    turns = (lag[:, None] * frequency) % size
    return turns.to(like.dtype) * (2 * math.pi / size)


def filter_of(weight: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What `filtered` needs to divide channels by the norms of their kernels' spectra, as constants for the gradient.

    weight: (out, in, kh, kw). height, width: of the images. dtype: of the arithmetic, float32 or float64. On a CPU the
    result is a `Filter` and the bases of both axes (see `real_fourier`), elsewhere the symbol (out, height, width).
    """
    device = weight.device
    with torch.autocast(device.type, enabled=False), torch.no_grad():
        # float64 where possible, because in float32 the square of a spectrum near zero has no correct digit.
        exact = weight.to(torch.float32 if device.type == "mps" else torch.float64)
        if device.type != "cpu":
            return (inverse_spectrum_norm(exact, height, width).to(dtype),)
        rows, columns = real_fourier.frequencies(height, device), real_fourier.frequencies(width, device)
        both = inverse_norm_at(exact, (height, width), rows, torch.cat([columns, -columns]))
        straight, mirrored = both.chunk(2, 2)
        even, odd = real_fourier.acting(straight, mirrored, (height, width), dtype)
        down = real_fourier.basis(height, dtype, device)
        # Not the same tensor twice, which torch.compile cannot pass to the function that `filtered` applies.
        across = down.detach() if width == height else real_fourier.basis(width, dtype, device)
        return even, odd, down, across


def filtered(x: Tensor, filter: tuple[Tensor, ...], crop: Pair, stride: Pair) -> Tensor:
    """Circularly filters each channel of images, then crops and strides them: (N, C, H, W) -> (N, C, H', W').

    filter: from `filter_of`. crop: rows and columns to remove at each border. stride: every stride-th remaining row and
    column is kept. The result has the dtype and memory format of x; the gradient of x, those of the result's gradient.

    A CPU multiplies by Fourier matrices, which takes a sixth to four fifths of the time of fast transforms at the usual
    sizes of a grid, 2^k + 2. Other devices transform, because CUDA may round products to TF32.
    """
    return (Products if x.device.type == "cpu" else Transforms).apply(x, *filter, crop, stride)


class Products(torch.autograd.Function):
    """A circular filter by products with real Fourier matrices.

    As its symbol is real and even, the filter is its own adjoint, so the backward pass needs nothing else.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, even: Tensor, odd: Tensor, rows: Tensor, columns: Tensor, crop: Pair, stride: Pair
    ) -> Tensor:
        """x (N, C, H, W) -> (N, C, H', W').

        even, odd: see `real_fourier.Filter`. rows, columns: the bases of the two axes. crop, stride: see `filtered`.
        """
        ctx.save_for_backward(even, odd, rows, columns)
        ctx.window = window(x.shape, crop, stride)
        return by_products(x, even, odd, rows, columns, WHOLE, ctx.window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        even, odd, rows, columns = ctx.saved_tensors
        return by_products(gradient, even, odd, rows, columns, ctx.window, WHOLE), None, None, None, None, None, None


def by_products(
    x: Tensor, even: Tensor, odd: Tensor, rows: Tensor, columns: Tensor, given: Window, kept: Window
) -> Tensor:
    """Filters images x (N, C, H', W') that lie at the pixels `given` of the grid, and returns those at `kept`."""
    down, across = (
        real_fourier.Axis(matrix[:, here].contiguous(), matrix[:, there].T.contiguous())
        for matrix, here, there in zip((rows, columns), given, kept, strict=True)
    )
    size = (len(x), x.shape[1], len(down.synthesis), len(across.synthesis))
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    last, kept_last = x.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)
    with torch.autocast(x.device.type, enabled=False):
        real_fourier.filtered(last, kept_last, real_fourier.Filter(even, odd), down, across)
    return result


class Transforms(torch.autograd.Function):
    """A circular filter by fast Fourier transforms. Its symbol is real and even, so that it is its own adjoint.

    As the filter acts on real and imaginary parts separately, two images are transformed together as one complex image.
    A side effect is that an image with values that are not finite also spoils the one it is paired with.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, symbol: Tensor, crop: Pair, stride: Pair) -> Tensor:
        """x (N, C, H, W), symbol (C, H, W) -> (N, C, H', W'). crop, stride: see `filtered`."""
        ctx.save_for_backward(symbol)
        ctx.shape, ctx.window = x.shape, window(x.shape, crop, stride)
        return unpacked(transformed(packed(x, x.shape, WHOLE), symbol), x, len(x), ctx.window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (symbol,) = ctx.saved_tensors
        images = transformed(packed(gradient, ctx.shape, ctx.window), symbol)
        return unpacked(images, gradient, len(gradient), WHOLE), None, None, None


def window(shape: torch.Size, crop: Pair, stride: Pair) -> Window:
    """The rows and the columns of images of a shape (N, C, H, W) that are kept after cropping and striding."""
    rows, columns = (slice(c, size - c, s) for c, size, s in zip(crop, shape[2:], stride, strict=True))
    return rows, columns


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last if images x are certainly in it, else contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def packed(x: Tensor, shape: torch.Size, place: Window) -> Tensor:
    """Packs N real images into complex images (ceil(N/2), C, H, W) of a shape (N, C, H, W).

    The first half of the images x becomes the real part, the second half the imaginary part. They are placed at the
    rows and columns `place`; all other pixels are zero.
    """
    half = (shape[0] + 1) // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = torch.zeros(half, *shape[1:], 2, dtype=dtype, device=x.device)
    parts[:, :, *place, 0] = x[:half]
    parts[: shape[0] - half, :, *place, 1] = x[half:]
    return torch.view_as_complex(parts)


def transformed(images: Tensor, symbol: Tensor) -> Tensor:
    """Complex images (M, C, H, W) after the circular filter with this symbol (C, H, W)."""
    spectrum = torch.fft.fft2(images)
    del images  # to free memory as large as the batch
    torch.view_as_real(spectrum).mul_(symbol[..., None])
    return torch.fft.ifft2(spectrum)


def unpacked(images: Tensor, like: Tensor, count: int, place: Window) -> Tensor:
    """The inverse of `packed`: `count` real images, cut out at `place`, in the dtype and memory format of `like`."""
    parts = torch.view_as_real(images)[:, :, *place]
    half = len(parts)
    result = torch.empty(
        (count, *parts.shape[1:-1]), dtype=like.dtype, device=like.device, memory_format=memory_format(like)
    )
    result[:half] = parts[..., 0]
    result[half:] = parts[: count - half, ..., 1]
    return result
