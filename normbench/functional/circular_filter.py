"""The circular filters of ConvNorm (Liu et al., arXiv 2103.00673): computing them from a kernel, and applying them.

The symbol of a filter is its frequency response: one factor per frequency.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from normbench.functional.pairs import Pair

WHOLE = (slice(None), slice(None))


def inverse_spectrum_norm(weight: Tensor, height: int, width: int) -> Tensor:
    """The reciprocal norm of each output channel's kernel spectrum, (out, height, width), without an eps.

    weight: (out, in, kh, kw). height, width: the grid of frequencies. The norm is taken over input channels. Its square
    is the Fourier transform of the kernel's autocorrelation, summed over input channels. As that has only
    (2kh-1)(2kw-1) taps, one product with a table of cosines replaces the transforms of all kernels.
    """
    out, _, kh, kw = weight.shape
    taps = weight.reshape(out, -1, kh * kw)
    products = taps.mT @ taps
    # The autocorrelation sums over pairs of taps with the same offset, from 1 - k to k - 1, stored modulo 2k - 1.
    place = (offsets(kh, weight)[:, None, :, None] * (2 * kw - 1) + offsets(kw, weight)[None, :, None, :]).reshape(-1)
    size = (2 * kh - 1) * (2 * kw - 1)
    correlation = weight.new_zeros(out, size).index_add_(1, place, products.reshape(out, -1))
    down, across = phases(kh, height, weight), phases(kw, width, weight)
    table = torch.cos(down[:, None, :, None] + across[None, :, None, :])
    return (correlation @ table.view(size, -1)).clamp_min_(0).rsqrt_().view(out, height, width)


def offsets(k: int, like: Tensor) -> Tensor:
    """The differences between tap positions, modulo 2k - 1; int64 (k, k)."""
    position = torch.arange(k, device=like.device)
    return (position[:, None] - position) % (2 * k - 1)


def phases(k: int, size: int, like: Tensor) -> Tensor:
    """The angles 2 pi u lag / size for all lags, in the order of `offsets`, and frequencies u: (2k - 1, size)."""
    lag = torch.arange(2 * k - 1, device=like.device)
    lag = torch.where(lag < k, lag, lag - (2 * k - 1))
    # Reduced modulo the size while still an integer, because the cosine of a large angle loses digits.
    turns = (lag[:, None] * torch.arange(size, device=like.device)) % size
    return turns.to(like.dtype) * (2 * math.pi / size)


class CircularFilter(torch.autograd.Function):
    """Circularly filters each channel of an image, then crops and strides the result.

    The filter is given by its symbol, which is real and even, and is treated as a constant: it has no gradient. Such a
    filter is its own adjoint, so the backward pass only needs the symbol. As it acts on real and imaginary parts
    separately, two images are transformed together as one complex image. A side effect is that an image with values
    that are not finite also spoils the one it is paired with.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, symbol: Tensor, crop: Pair, stride: Pair) -> Tensor:
        """x (N, C, H, W), symbol (C, H, W) -> (N, C, H', W').

        crop: rows and columns to remove at each border. stride: every stride-th remaining row and column is kept.
        """
        ctx.save_for_backward(symbol)
        ctx.shape, ctx.window = x.shape, window(x.shape, crop, stride)
        return unpacked(filtered(packed(x, x.shape, WHOLE), symbol), x, len(x), ctx.window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (symbol,) = ctx.saved_tensors
        images = filtered(packed(gradient, ctx.shape, ctx.window), symbol)
        return unpacked(images, gradient, len(gradient), WHOLE), None, None, None


def window(shape: torch.Size, crop: Pair, stride: Pair) -> tuple[slice, slice]:
    """The rows and the columns of images of a shape (N, C, H, W) that are kept after cropping and striding."""
    rows, columns = (slice(c, size - c, s) for c, size, s in zip(crop, shape[2:], stride, strict=True))
    return rows, columns


def packed(x: Tensor, shape: torch.Size, place: tuple[slice, slice]) -> Tensor:
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


def filtered(images: Tensor, symbol: Tensor) -> Tensor:
    """Complex images (M, C, H, W) after the circular filter with this symbol (C, H, W)."""
    spectrum = torch.fft.fft2(images)
    del images  # to free memory as large as the batch
    torch.view_as_real(spectrum).mul_(symbol[..., None])
    return torch.fft.ifft2(spectrum)


def unpacked(images: Tensor, like: Tensor, count: int, place: tuple[slice, slice]) -> Tensor:
    """The inverse of `packed`: `count` real images, cut out at `place`, in the dtype and memory format of `like`."""
    parts = torch.view_as_real(images)[:, :, *place]
    half = len(parts)
    channels_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    result = torch.empty(
        (count, *parts.shape[1:-1]),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    result[:half] = parts[..., 0]
    result[half:] = parts[: count - half, ..., 1]
    return result
