"""The circular filters of ConvNorm (Liu et al., arXiv 2103.00673): their symbol from a kernel, and how they act."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from normbench.functional.pairs import Pair

WHOLE = (slice(None), slice(None))


def inverse_spectrum_norm(weight: Tensor, height: int, width: int) -> Tensor:
    """One over the norm of each output channel's kernel spectrum on a grid, (out, height, width); no eps.

    weight: (out, in, kh, kw). The squared norm is the transform of the kernel's autocorrelation, summed over input
    channels, which has only (2kh-1)(2kw-1) taps: a product with a table of cosines replaces the transforms of all
    kernels.
    """
    out, _, kh, kw = weight.shape
    taps = weight.reshape(out, -1, kh * kw)
    products = taps.mT @ taps
    # Sums over pairs of taps with the same offset; offsets run from 1 - k to k - 1, stored modulo 2k - 1.
    place = (offsets(kh, weight)[:, None, :, None] * (2 * kw - 1) + offsets(kw, weight)[None, :, None, :]).reshape(-1)
    size = (2 * kh - 1) * (2 * kw - 1)
    correlation = weight.new_zeros(out, size).index_add_(1, place, products.reshape(out, -1))
    down, across = phases(kh, height, weight), phases(kw, width, weight)
    table = torch.cos(down[:, None, :, None] + across[None, :, None, :])
    return (correlation @ table.view(size, -1)).clamp_min_(0).rsqrt_().view(out, height, width)


def offsets(k: int, like: Tensor) -> Tensor:
    """Differences of tap positions modulo 2k - 1, (k, k)."""
    position = torch.arange(k, device=like.device)
    return (position[:, None] - position) % (2 * k - 1)


def phases(k: int, size: int, like: Tensor) -> Tensor:
    """2 pi u lag / size for the lags in the order of `offsets` and the frequencies u, (2k - 1, size)."""
    lag = torch.arange(2 * k - 1, device=like.device)
    lag = torch.where(lag < k, lag, lag - (2 * k - 1))
    # An integer modulo the size first: the cosine of a large angle loses digits.
    turns = (lag[:, None] * torch.arange(size, device=like.device)) % size
    return turns.to(like.dtype) * (2 * math.pi / size)


class CircularFilter(torch.autograd.Function):
    """Filters the channels of x (N, C, H, W) by a real, even symbol (C, H, W) and keeps a strided window of the result.

    crop: rows and columns left out at each border; stride: between those that are kept. The symbol is a constant for
    the gradient. The filter is its own adjoint, so that nothing but the symbol is saved. A real filter acts on real and
    imaginary part alike: two images travel as one complex one. So an image that is not finite spoils its partner.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, symbol: Tensor, crop: Pair, stride: Pair) -> Tensor:
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
    rows, columns = (slice(c, size - c, s) for c, size, s in zip(crop, shape[2:], stride, strict=True))
    return rows, columns


def packed(x: Tensor, shape: torch.Size, place: tuple[slice, slice]) -> Tensor:
    """Complex images (ceil(N/2), C, H, W), zero outside `place`: there, the first half of x, and i times the second."""
    half = (shape[0] + 1) // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = torch.zeros(half, *shape[1:], 2, dtype=dtype, device=x.device)
    parts[:, :, *place, 0] = x[:half]
    parts[: shape[0] - half, :, *place, 1] = x[half:]
    return torch.view_as_complex(parts)


def filtered(images: Tensor, symbol: Tensor) -> Tensor:
    spectrum = torch.fft.fft2(images)
    del images  # they are as large as the batch
    torch.view_as_real(spectrum).mul_(symbol[..., None])
    return torch.fft.ifft2(spectrum)


def unpacked(images: Tensor, like: Tensor, count: int, place: tuple[slice, slice]) -> Tensor:
    """The `place` of real parts, then imaginary parts, as `count` real images with the dtype and format of `like`."""
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
