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

from normbench.functional.products import addmm, matmul

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
    analysis: (2, W), weights that give the mean coefficient, real and imaginary, from the mean first row.
    spread: (W + 1, 2), the adjoint of `analysis`, and its sum over the row: the mean coefficient of an image of ones.
    synthesis: (2, W), the first row of an image whose coefficients are all 1, and of one whose coefficients are all i.
    edges: (3, W), minus `synthesis` and its real part, both over `gain`.
    energy, row_energy: the mean square of the coefficients is `energy` times the mean square of the pixels plus
        `row_energy` times that of the row sums. The latter is 0 on the full plane.
    square_of_one: the mean square of the coefficients of an image of ones.
    parts: the number of sums per row: 2 on the half plane if the width is even (one for the even and one for the odd
        columns), else 1.
    places: a matrix of zeros and ones that says which pixel belongs to which sum, (H * W, H * parts) for small images,
        else (W, parts) for each row.
    zero: 0-d.
    """

    gain: float
    analysis: Tensor
    spread: Tensor
    synthesis: Tensor
    edges: Tensor
    energy: float
    row_energy: float
    square_of_one: float
    parts: int
    places: Tensor
    zero: Tensor

    @classmethod
    def of(
        cls,
        statistics: str,
        fft_norm: str,
        size: torch.Size | tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Plane:
        """The constants for images of a size (H, W).

        statistics: `half` or `full`, the plane. fft_norm: see `scales`.
        """
        height, width = size
        pixels = height * width
        forward, inverse = scales(fft_norm, pixels)
        gain = 1 / pixels if fft_norm == "full" else 1.0
        parts = 2 - width % 2 if statistics == "half" else 1
        row_energy = 0.0
        if statistics == "full":
            one = torch.zeros(2, width, dtype=dtype, device=device)
            one[0, 0] = 1
            analysis, synthesis, energy = forward * one, inverse * pixels * one, forward**2 * pixels
        else:
            frequencies = width // 2 + 1
            frequency = torch.arange(frequencies, device=device)[:, None]
            turns = (frequency * torch.arange(width, device=device)) % width
            angle = turns.to(dtype) * (2 * math.pi / width)
            wave = torch.stack([angle.cos(), -angle.sin()])
            own_mirror = (frequency == 0) | (2 * frequency == width)
            times = torch.where(own_mirror, 1.0, 2.0).to(dtype)
            analysis = wave.sum(1) * (forward / frequencies)
            synthesis = (times * wave).sum(1) * (inverse * height)
            square = forward**2 / (2 * height * frequencies)
            energy, row_energy = square * pixels**2, square * (height * parts) ** 2
        together = height if pixels <= SMALL_IMAGE else 1
        of_row = torch.eye(parts, dtype=dtype, device=device).repeat(width // parts, 1)
        return cls(
            gain=gain,
            analysis=analysis,
            spread=torch.cat([analysis.mT, analysis.sum(1)[None]]),
            synthesis=synthesis,
            edges=torch.cat([-synthesis, synthesis[:1]]) / gain,
            energy=energy,
            row_energy=row_energy,
            square_of_one=energy + row_energy * (width // parts) ** 2,
            parts=parts,
            places=torch.kron(torch.eye(together, dtype=dtype, device=device), of_row),
            zero=torch.zeros((), dtype=dtype, device=device),
        )

    def first_row(self, coefficients: Tensor) -> Tensor:
        """The change (C, W) of the first row when numbers are added to every coefficient of a channel.

        coefficients: (2, C), their real and imaginary parts.
        """
        return matmul(self.synthesis.mT, coefficients).mT  # which torch adds faster to images in channels_last format


class PooledSpectralNorm(torch.autograd.Function):
    """Spectral batch norm in training mode behind an affine map of the channels, which may be a batch norm.

    It normalizes the coefficients of h = before_gain * u + before_bias with u = (x - mean) * scale and scale =
    (variance + before_eps)^-0.5. With `batch_norm`, the gradient also flows through the mean and the variance. This is
    then a batch norm followed by a spectral one, in about as many passes over the images as one of them alone.

    Small images spend most of the time on numbers per channel, so these are computed in few operations. Numbers per
    channel are (C,), coefficients (2, C), rows of an image (W, C).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        images: Tensor,
        mean: Tensor,
        variance: Tensor,
        before_gain: Tensor,
        before_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        before_eps: float,
        eps: float,
        plane: Plane,
        batch_norm: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C, H, W) -> y (N, C, H, W), and the coefficients' mean (2, C), real and imaginary, and variance (C,),
        the latter over `plane.square_of_one`.

        images: x, or x in the precision of the statistics. y is in that of x, rounded once.
        mean, variance: (C,), the mean and the biased variance of x. before_gain, before_bias: (C,).
        gain, bias: (C,), the affine parameters of the spectral norm times the gain of the plane; the bias is added to
        every coefficient.
        Only y is differentiable, with respect to x, before_gain, before_bias, gain and bias.
        """
        images = dense(images, images)
        scale = torch.rsqrt(variance + before_eps)
        slope = before_gain * scale
        # For x - mean: the mean square of its coefficients over `energy`, and the sum of its first rows.
        energy, sums = variance, None
        if plane.row_energy:
            sums = row_sums(images, plane, mean.dtype)
            energy = torch.add(variance, moments(sums)[1], alpha=plane.row_energy / plane.energy)
        n = len(images)
        row = torch.sub(first_row_sum(images, mean.dtype), mean, alpha=n)
        # For h = slope * (x - mean) + before_bias: its mean coefficient, and their variance over `square_of_one`.
        coefficients = matmul(plane.analysis, torch.addcmul(before_bias, row, slope, value=1 / n))
        one, (real, imaginary) = plane.square_of_one, coefficients.unbind()
        by_energy, square = torch._foreach_mul([slope, before_bias], [energy, before_bias])
        square = torch.addcmul(square, slope, by_energy, value=plane.energy / one)
        power = torch.addcmul(square, real, real, value=-1 / one)
        power = torch.addcmul(power, imaginary, imaginary, value=-1 / one)
        found = power.clamp_min(0)  # rounding can make it negative
        inverse = torch.rsqrt(found + eps / one)
        direct = torch.addcmul(plane.zero, gain, inverse, value=one**-0.5)
        weight, shift, by_x, added_real, added_imaginary, by_inverse, by_scale, by_slope = torch._foreach_mul(
            [before_gain, before_bias, slope, real, imaginary, inverse, slope, slope], [*[direct] * 6, scale, slope]
        )
        y = torch.batch_norm(x, weight, shift, mean, variance, False, 0.0, before_eps, False)
        constant = torch.addcmul(shift, by_x, mean, value=-1)
        first_row = addmm(constant, plane.edges.mT, torch.stack([added_real, added_imaginary, bias]))
        write(rows_first(y)[:, 0], first_row, rows_first(images)[:, 0], by_x)

        ctx.save_for_backward(images, mean, scale, before_gain, before_bias)
        ctx.kept = plane, sums, slope, row, coefficients, power, inverse, direct
        ctx.products = by_energy, by_x, by_inverse, by_scale, by_slope
        ctx.batch_norm = batch_norm
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(coefficients, found)
        return y, coefficients, found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 12
        images, mean, scale, before_gain, before_bias = ctx.saved_tensors
        plane, sums, slope, row, coefficients, power, inverse, direct = ctx.kept
        by_energy, by_g, by_inverse, by_scale, by_slope = ctx.products
        given = dense(g, images)
        n, channels, height, width = images.shape
        pixels, one, energy = height * width, plane.square_of_one, plane.energy
        # One pass gives for each channel the sum of g * u and the sum of g. The weight, here `scale`, has no effect on
        # them, but CUDA needs one.
        _, along, total = torch.ops.aten.native_batch_norm_backward(
            given, images, scale, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        # The gradients of minus the product of `coefficients` and `direct`, and of the bias.
        edge = matmul(plane.edges, first_row_sum(given, mean.dtype))
        of_real, of_imaginary, of_bias = edge.unbind()
        *of_direct, of_before_gain, of_mean = torch._foreach_mul(
            [before_gain, before_bias, *coefficients.unbind(), direct, direct],
            [along, total, of_real, of_imaginary, along, total],
        )
        of_gain = torch.addcmul(plane.zero, torch.stack(of_direct).sum(0), inverse, value=one**-0.5)
        # Minus twice the gradient of the coefficients' variance, none where rounding made that negative.
        less = torch.addcmul(plane.zero, of_gain, by_inverse, value=one**-0.5)
        less = torch.ops.aten.threshold_backward(less, power, 0)
        of_rows = matmul(plane.spread, torch.addcmul(edge[:2] * direct, coefficients, less))
        of_row, of_all = of_rows[:-1], of_rows[-1]
        of_slope = torch.addcmul((of_row * row).sum(0), less, by_energy, value=-n * energy)  # n times it
        of_before_gain = torch.addcmul(of_before_gain, of_slope, scale, value=1 / n)
        of_mean = of_mean + of_all
        of_before_bias = torch.addcmul(of_mean, less, before_bias, value=-one)

        # The gradient of h is direct * g plus multiples of h, of the row sums of h and of a first row. That of x is
        # `slope` times it. With a batch norm in front, its mean and its component along u are subtracted first.
        part = -1 / (n * pixels)
        by_sum = less * by_slope
        if ctx.batch_norm:
            by_x = torch.addcmul(by_sum, by_scale, of_before_gain, value=1 / energy)
            constant = torch.addcmul(plane.zero, of_mean, slope, value=part)
        else:
            by_x = by_sum
            constant = torch.addcmul(plane.zero, of_mean - of_before_bias, slope, value=part)
        by_row, by_mean = plane.row_energy * (width / plane.parts), by_x
        if sums is not None:
            by_mean = torch.add(by_x, by_sum, alpha=by_row * (width / plane.parts) / energy)
        constant = torch.addcmul(constant, mean, by_mean, value=-energy * part)
        values = constant.expand(n, height, plane.parts, channels)
        if sums is not None:
            values = torch.addcmul(constant, rows_first(sums), by_sum, value=by_row * part)
        result = scaled_plus_rows(given, by_g, values, plane)
        rows_first(result)[:, 0].addcmul_(of_row, slope, value=1 / n)
        rounded = result if result.dtype == given.dtype else torch.empty_like(given)
        write(rounded, result, images, by_x[:, None, None], energy * part)
        gradients = (of_before_gain, of_before_bias, of_gain, of_bias)
        return (rounded.to(g.dtype), None, None, None, *gradients, None, None, None, None)


def write(target: Tensor, added: Tensor, a: Tensor, b: Tensor, value: float = 1.0) -> None:
    """Writes added + value * a * b into a tensor that may be of lower precision, rounded once."""
    if torch.compiler.is_compiling():  # which does not support the other way
        target.copy_(torch.addcmul(added, a, b, value=value))
    else:
        torch.addcmul(added, a, b, value=value, out=target)


def rows_first(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N, H, W, C): a view."""
    return images.permute(0, 2, 3, 1)


def channels_last(x: Tensor) -> bool:
    """Whether x (N, C, H, W) is in channels_last format and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def dense(x: Tensor, like: Tensor) -> Tensor:
    """x (N, C, H, W) in channels_last format if the images `like` are in it, else contiguous, and in their dtype."""
    wanted = torch.channels_last if channels_last(like) else torch.contiguous_format
    return x.to(like.dtype).contiguous(memory_format=wanted)


def moments(
    x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, momentum: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x (N, C, H, W), (C,) each, in float32 if x is of lower precision.

    Updates the running statistics, with the unbiased variance, if there are any.
    """
    if not (torch.compiler.is_compiling() or x.device.type == "mps"):
        return torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
    # torch.compile and MPS do not have the function above.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1]
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
    return mean, variance


def row_sums(images: Tensor, plane: Plane, dtype: torch.dtype) -> Tensor:
    """Row sums (N, C, H, parts) of images (N, C, H, W), over every parts-th column: with 2 parts, even and odd ones."""
    n, channels, height, width = images.shape
    apart = width // plane.parts, plane.parts
    if channels_last(images):
        return rows_first(images).view(n, height, *apart, channels).sum(2, dtype=dtype).permute(0, 3, 1, 2)
    if images.device.type != "cpu":
        return images.view(n, channels, height, *apart).sum(3, dtype=dtype)
    # The other ways are faster on a CPU.
    if height * width <= SMALL_IMAGE:
        return matmul(images.view(-1, height * width), plane.places).view(n, channels, height, plane.parts)
    if plane.parts == 1:
        return images.sum(3, keepdim=True)
    return torch.view_as_real(torch.view_as_complex(images.view(n, channels, height, -1, 2)).sum(3))


def first_row_sum(images: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over images (N, C, H, W) of their first rows, (W, C)."""
    if not channels_last(images):
        return images[:, :, 0].sum(0, dtype=dtype).mT
    n, channels, _, width = images.shape
    together = rows_first(images)[:, 0].reshape(n, -1)  # which torch adds five times as fast
    return together.sum(0, dtype=dtype).view(width, channels)


def scaled_plus_rows(images: Tensor, gain: Tensor, values: Tensor, plane: Plane) -> Tensor:
    """images * gain plus the adjoint of `row_sums`: each of `values` at every parts-th column of its row.

    images: (N, C, H, W). gain: (C,). values: (N, H, parts, C). In the precision of the values.
    """
    n, channels, height, width = images.shape
    apart = width // plane.parts, plane.parts
    if channels_last(images):
        # A CPU is up to twice as fast where a gain for each part makes the innermost dimension longer.
        inner = [plane.parts * channels] if images.device.type == "cpu" else [plane.parts, channels]
        parts = rows_first(images).view(n, height, apart[0], *inner)
        gain = gain.repeat(plane.parts) if images.device.type == "cpu" else gain
        result = torch.addcmul(values.reshape(n, height, 1, *inner), parts, gain)
        return result.view(n, height, width, channels).permute(0, 3, 1, 2)
    values = values.permute(0, 3, 1, 2)
    if images.device.type != "cpu":
        parts = images.view(n, channels, height, *apart)
        return torch.addcmul(values[:, :, :, None], parts, gain.view(-1, 1, 1, 1)).view(images.shape)
    result = images * gain[:, None, None]
    together = plane.places.shape[1]
    result.view(-1, plane.places.shape[0]).addmm_(values.reshape(-1, together), plane.places.mT)
    return result
