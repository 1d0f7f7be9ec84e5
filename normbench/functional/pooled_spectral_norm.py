"""Spectral Batch Normalization with statistics pooled over frequencies, without a Fourier transform.

By Parseval's theorem the variance of a channel's coefficients is a quadratic form of its image, and their mean depends
on the corner pixel (full plane) or on the first row of the image (half plane) alone. The half plane is half of the
whole one plus half of the columns 0 and W/2, which are their own mirror images: the sums of the image's rows, plain and
with alternating signs. The squares of these two add up to twice those of the sums over even and over odd columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SMALL_IMAGE = 64  # pixels, up to which one product over the whole image is the fastest way to sum its rows


def scales(fft_norm: str, pixels: int) -> tuple[float, float]:
    """The factors of the forward and of the inverse transform, for an image of `pixels` pixels."""
    return {
        "backward": (1.0, 1 / pixels),
        "ortho": (pixels**-0.5, pixels**-0.5),
        "forward": (1 / pixels, 1.0),
        "full": (1 / pixels, 1 / pixels),
    }[fft_norm]


@dataclass(frozen=True)
class Plane:
    """The constants of the closed form for one size of images.

    gain: what both transforms do to the scale of an image. real_in, imaginary_in (W,): the mean coefficient from the
    mean first row. real_out, imaginary_out (W,): the first row of an image whose coefficients are all 1, or i.
    energy, rows: weights, in the mean square of the coefficients, of the mean over the batch of an image's squares and
    of its squared row sums. parts: sums of a row, 2 where the width is even (even and odd columns apart), else 1.
    """

    gain: float
    real_in: Tensor
    imaginary_in: Tensor
    real_out: Tensor
    imaginary_out: Tensor
    energy: float
    rows: float
    parts: int

    @classmethod
    def of(cls, statistics: str, fft_norm: str, images: Tensor) -> Plane:
        """For the `half` or the `full` plane of images (N, C, H, W)."""
        height, width = images.shape[-2:]
        pixels = height * width
        forward, inverse = scales(fft_norm, pixels)
        gain = forward * inverse * pixels
        if statistics == "full":
            zero = images.new_zeros(width)
            corner = functional.pad(images.new_ones(1), (0, width - 1))
            return cls(gain, forward * corner, zero, inverse * pixels * corner, zero, forward**2, 0.0, 1)
        frequencies = width // 2 + 1
        frequency = torch.arange(frequencies, device=images.device)[:, None]
        turns = (frequency * torch.arange(width, device=images.device)) % width
        angle = turns.to(images.dtype) * (2 * math.pi / width)
        cosine, sine = angle.cos(), -angle.sin()
        own_mirror = (frequency == 0) | (2 * frequency == width)
        times = torch.where(own_mirror, 1.0, 2.0).to(images.dtype)
        mean, square = forward / frequencies, forward**2 / (2 * height * frequencies)
        return cls(
            gain,
            cosine.sum(0) * mean,
            sine.sum(0) * mean,
            (times * cosine).sum(0) * (inverse * height),
            (times * sine).sum(0) * (inverse * height),
            square * pixels,
            square * height,
            2 - width % 2,
        )

    def coefficients(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary mean coefficient, (C,) each, from the mean first row (C, W)."""
        return row @ self.real_in, row @ self.imaginary_in

    def first_row(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """What complex numbers (C,) added to every coefficient of a channel add to its first row, (C, W)."""
        return real[:, None] * self.real_out + imaginary[:, None] * self.imaginary_out


class PooledSpectralNorm(torch.autograd.Function):
    """x (N, C, H, W) -> y, and real and imaginary mean and variance of the coefficients, (C,) each, in training mode.

    What is normalized is h = before_gain * (x - offset) * scale + before_bias. offset, scale, before_gain, before_bias
    (C,); square (C,) is the sum of the squares of (x - offset) * scale. With `batch_norm`, offset and scale are mean
    and inverse deviation of the batch, and the gradient goes through them: then this is a batch norm and the spectral
    one after it, in as many passes over the images as one of them takes. Only y has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor,
        scale: Tensor,
        square: Tensor,
        before_gain: Tensor,
        before_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        eps: float,
        statistics: str,
        fft_norm: str,
        batch_norm: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = x if channels_last(x) else x.contiguous()
        plane = Plane.of(statistics, fft_norm, x)
        n, _, height, width = x.shape
        # Of the shifted and scaled images: row sums, mean first row and total.
        shift = -offset * scale
        sums = row_sums(x, plane.parts) * scale[:, None, None] + (width // plane.parts * shift)[:, None, None]
        row = x[:, :, 0].mean(0) * scale[:, None] + shift[:, None]
        total = sums.sum((0, 2, 3))
        rows_square = plane.parts * torch.linalg.vector_norm(sums, dim=(0, 2, 3)).square()
        # And the same of h.
        h_row = before_gain[:, None] * row + before_bias[:, None]
        count = n * height * width
        h_square = before_gain.square() * square + before_bias * (2 * before_gain * total + count * before_bias)
        h_rows_square = before_gain.square() * rows_square
        h_rows_square = h_rows_square + width * before_bias * (2 * before_gain * total + count * before_bias)

        real, imaginary = plane.coefficients(h_row)
        raw = (plane.energy * h_square + plane.rows * h_rows_square) / n - real.square() - imaginary.square()
        variance = raw.clamp_min(0)  # rounding can take it below zero
        inverse = (variance + eps).rsqrt()
        s = gain * inverse
        factor = plane.gain * s * before_gain * scale
        constant = plane.gain * s * before_bias - factor * offset
        y = (x * factor[:, None, None]).add_(constant[:, None, None])
        y[:, :, 0] += plane.first_row(bias - real * s, -imaginary * s)

        ctx.save_for_backward(x, offset, scale, square, before_gain, before_bias, gain)
        ctx.sums = sums, row, total, rows_square, real, imaginary, raw, inverse
        ctx.statistics, ctx.fft_norm, ctx.batch_norm = statistics, fft_norm, batch_norm
        ctx.mark_non_differentiable(real, imaginary, variance)
        return y, real, imaginary, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, scale, square, before_gain, before_bias, gain = ctx.saved_tensors
        sums, row, total, rows_square, real, imaginary, raw, inverse = ctx.sums
        plane = Plane.of(ctx.statistics, ctx.fft_norm, x)
        n, _, height, width = x.shape
        count = n * height * width
        # Of each channel, the sum of g times the shifted and scaled image, and of g: in one pass.
        _, along, sum_g = torch.ops.aten.native_batch_norm_backward(
            g, x, None, None, None, offset, scale, True, 0.0, [False, True, True]
        )
        first = g[:, :, 0].sum(0)
        s = gain * inverse
        of_real, of_imaginary = first @ plane.real_out, first @ plane.imaginary_out
        of_s = plane.gain * (before_gain * along + before_bias * sum_g) - real * of_real - imaginary * of_imaginary
        of_gain, of_bias = of_s * inverse, of_real
        of_variance = torch.where(raw > 0, -0.5 * of_s * gain * inverse**3, 0.0)
        in_real = -s * of_real - 2 * real * of_variance
        in_imaginary = -s * of_imaginary - 2 * imaginary * of_variance

        # The gradient of h is direct * g + energy * h + rows * (its row sums, spread over the rows) + a first row.
        direct, energy, rows = plane.gain * s, 2 * plane.energy / n * of_variance, 2 * plane.rows / n * of_variance
        first_row = (in_real[:, None] * plane.real_in + in_imaginary[:, None] * plane.imaginary_in) / n
        # Its sum, and its sum times the shifted and scaled image.
        h_total = before_gain * total + count * before_bias
        of_before_bias = direct * sum_g + (energy + width * rows) * h_total + n * first_row.sum(1)
        of_before_gain = direct * along + energy * (before_gain * square + before_bias * total)
        of_before_gain = of_before_gain + rows * (before_gain * rows_square + width * before_bias * total)
        of_before_gain = of_before_gain + n * (first_row * row).sum(1)

        # That of x is `inner` times it, less its mean and its part along the image where those were taken out.
        inner = before_gain * scale
        by_image, constant = energy * before_gain, (energy + width * rows) * before_bias
        if ctx.batch_norm:
            by_image, constant = by_image - of_before_gain / count, constant - of_before_bias / count
        by_x = inner * by_image * scale
        constant = inner * constant - by_x * offset
        result = (x * by_x[:, None, None]).add_(constant[:, None, None])
        result.addcmul_(g, (inner * direct)[:, None, None])
        if plane.rows:
            add_to_rows(result, sums * (plane.parts * inner * rows * before_gain)[:, None, None])
        result[:, :, 0] += inner[:, None] * first_row
        return result, None, None, None, of_before_gain, of_before_bias, of_gain, of_bias, None, None, None, None


def channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def row_sums(images: Tensor, parts: int) -> Tensor:
    """Sums of every parts-th column in each row of images (N, C, H, W), (N, C, H, parts)."""
    n, channels, height, width = images.shape
    if channels_last(images):
        rows = images.permute(0, 2, 3, 1).view(n, height, width // parts, parts, channels)
        return rows.sum(2).permute(0, 3, 1, 2)
    if height * width <= SMALL_IMAGE:
        return (images.view(-1, height * width) @ places(height, width, parts, images)).view(n, channels, height, parts)
    return torch.stack([images[..., part::parts].sum(3) for part in range(parts)], -1)


def add_to_rows(images: Tensor, values: Tensor) -> None:
    """Adds values (N, C, H, parts) to every parts-th column in each row of images (N, C, H, W): adjoint of row_sums."""
    n, channels, height, width = images.shape
    parts = values.shape[3]
    if channels_last(images):
        rows = images.permute(0, 2, 3, 1).view(n, height, width // parts, parts, channels)
        rows += values.permute(0, 2, 3, 1)[:, :, None]
    else:
        together = height if height * width <= SMALL_IMAGE else 1
        place = places(together, width, parts, images)
        images.view(-1, together * width).addmm_(values.reshape(-1, together * parts), place.T)


def places(height: int, width: int, parts: int, like: Tensor) -> Tensor:
    """Which pixel belongs to which sum, (height * width, height * parts), as ones and zeros."""
    of_row = torch.eye(parts, dtype=like.dtype, device=like.device).repeat(width // parts, 1)
    return torch.kron(torch.eye(height, dtype=like.dtype, device=like.device), of_row)
