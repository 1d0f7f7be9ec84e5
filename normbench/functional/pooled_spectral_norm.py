"""Spectral Batch Normalization with statistics pooled over frequencies, without a Fourier transform.

Statistics are pooled over all coefficients of a 2-d Fourier transform (the full plane) or over those that a real
transform keeps, columns 0 to W//2 (the half plane). The mean of the coefficients depends only on the corner pixel of
the image (full plane) or on its first row (half plane). By Parseval's theorem, the sum of their squares over the full
plane is a multiple of the image's sum of squares. The half plane is half of the full plane plus half of the columns
0 and W/2, which are their own mirror images. The coefficients in these two columns are transforms of the row sums of
the image, plain and with alternating signs. The squares of the two sums add up to twice the squares of the sums over
even and over odd columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SMALL_IMAGE = 64  # pixels, up to which one matrix product over the whole image is the fastest way to sum its rows


def scales(fft_norm: str, pixels: int) -> tuple[float, float]:
    """The scale factors of the forward and the inverse transform, for an image of `pixels` pixels.

    fft_norm: a `norm` of `torch.fft`, or `full` for 1 / pixels in both directions.
    """
    return {
        "backward": (1.0, 1 / pixels),
        "ortho": (pixels**-0.5, pixels**-0.5),
        "forward": (1 / pixels, 1.0),
        "full": (1 / pixels, 1 / pixels),
    }[fft_norm]


@dataclass(frozen=True)
class Plane:
    """The constants of the closed form for one size of images.

    gain: the factor by which forward and inverse transform together scale an image.
    real_in, imaginary_in: (W,), weights that give the mean coefficient from the mean first row.
    real_out, imaginary_out: (W,), the first row of an image whose coefficients are all 1, or all i.
    energy, rows: the mean square of the coefficients is `energy` times the sum of an image's squares plus `rows` times
        that of its squared row sums (plain and, if `parts` is 2, with alternating signs), averaged over the batch.
    parts: the number of sums per row: 2 on the half plane if the width is even (one for the even and one for the odd
        columns), else 1.
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
        """The constants for images (N, C, H, W), in their dtype. statistics: `half` or `full`, the plane."""
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
        """The real and imaginary part of the mean coefficient, (C,) each. row: the mean first row, (C, W)."""
        return row @ self.real_in, row @ self.imaginary_in

    def first_row(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """The change (C, W) of the first row when real + i imaginary, (C,), is added to every coefficient."""
        return real[:, None] * self.real_out + imaginary[:, None] * self.imaginary_out


class PooledSpectralNorm(torch.autograd.Function):
    """Spectral batch norm in training mode, optionally fused with a batch norm in front of it.

    It normalizes the coefficients of h = before_gain * (x - offset) * scale + before_bias. With `batch_norm`, offset
    and scale are the mean and the inverse standard deviation of the batch, and the gradient flows through them. This
    is then a batch norm followed by a spectral one, in as many passes over the images as one of them alone.
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
        """x (N, C, H, W) -> y (N, C, H, W), and the coefficients' real and imaginary mean and variance, (C,) each.

        offset, scale, before_gain, before_bias: (C,). square: (C,), the sum of the squares of (x - offset) * scale.
        gain, bias: (C,), the affine parameters of the spectral norm; the bias is added to every coefficient.
        statistics: `half` or `full`. fft_norm: see `scales`. Only y is differentiable, with respect to x, before_gain,
        before_bias, gain and bias.
        """
        x = x if channels_last(x) else x.contiguous()
        plane = Plane.of(statistics, fft_norm, x)
        n, _, height, width = x.shape
        # The row sums, mean first row and total of the shifted and scaled images (x - offset) * scale.
        shift = -offset * scale
        sums = row_sums(x, plane.parts) * scale[:, None, None] + (width // plane.parts * shift)[:, None, None]
        row = x[:, :, 0].mean(0) * scale[:, None] + shift[:, None]
        total = sums.sum((0, 2, 3))
        rows_square = plane.parts * torch.linalg.vector_norm(sums, dim=(0, 2, 3)).square()
        # The mean first row, sum of squares and sum of squared row sums of h.
        h_row = before_gain[:, None] * row + before_bias[:, None]
        count = n * height * width
        h_square = before_gain.square() * square + before_bias * (2 * before_gain * total + count * before_bias)
        h_rows_square = before_gain.square() * rows_square
        h_rows_square = h_rows_square + width * before_bias * (2 * before_gain * total + count * before_bias)

        real, imaginary = plane.coefficients(h_row)
        raw = (plane.energy * h_square + plane.rows * h_rows_square) / n - real.square() - imaginary.square()
        variance = raw.clamp_min(0)  # rounding can make it negative
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
        # One pass gives for each channel the sum of g times the shifted and scaled image, and the sum of g.
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

        # The gradient of h is direct * g + energy * h + rows * (the row sums of h, at each pixel) + first_row.
        direct, energy, rows = plane.gain * s, 2 * plane.energy / n * of_variance, 2 * plane.rows / n * of_variance
        first_row = (in_real[:, None] * plane.real_in + in_imaginary[:, None] * plane.imaginary_in) / n
        # The sum of the gradient of h, and of its product with the shifted and scaled image.
        h_total = before_gain * total + count * before_bias
        of_before_bias = direct * sum_g + (energy + width * rows) * h_total + n * first_row.sum(1)
        of_before_gain = direct * along + energy * (before_gain * square + before_bias * total)
        of_before_gain = of_before_gain + rows * (before_gain * rows_square + width * before_bias * total)
        of_before_gain = of_before_gain + n * (first_row * row).sum(1)

        # The gradient of x is `inner` times that of h. With a batch norm in front, the mean of that gradient and its
        # component along the normalized image are subtracted first.
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
    """Whether x (N, C, H, W) is in channels_last format and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def row_sums(images: Tensor, parts: int) -> Tensor:
    """Row sums (N, C, H, parts) of images (N, C, H, W), over every parts-th column: with 2 parts, even and odd ones."""
    n, channels, height, width = images.shape
    if channels_last(images):
        rows = images.permute(0, 2, 3, 1).view(n, height, width // parts, parts, channels)
        return rows.sum(2).permute(0, 3, 1, 2)
    if height * width <= SMALL_IMAGE:
        return (images.view(-1, height * width) @ places(height, width, parts, images)).view(n, channels, height, parts)
    return torch.stack([images[..., part::parts].sum(3) for part in range(parts)], -1)


def add_to_rows(images: Tensor, values: Tensor) -> None:
    """Adjoint of `row_sums`: adds values (N, C, H, parts) to every parts-th column of images (N, C, H, W), in place."""
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
    """A matrix (height * width, height * parts) of zeros and ones that says which pixel belongs to which sum."""
    of_row = torch.eye(parts, dtype=like.dtype, device=like.device).repeat(width // parts, 1)
    return torch.kron(torch.eye(height, dtype=like.dtype, device=like.device), of_row)
