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

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    synthesis: (2, W), the first row of an image whose coefficients are all 1, and of one whose coefficients are all i.
    of_one: (2, 1), the mean coefficient of an image of ones.
    energy, row_energy: the mean square of the coefficients is `energy` times the mean square of the pixels plus
        `row_energy` times that of the row sums. The latter is 0 on the full plane.
    parts: the number of sums per row: 2 on the half plane if the width is even (one for the even and one for the odd
        columns), else 1.
    """

    gain: float
    analysis: Tensor
    synthesis: Tensor
    of_one: Tensor
    energy: float
    row_energy: float
    parts: int

    @classmethod
    def of(cls, statistics: str, fft_norm: str, size: torch.Size, like: Tensor) -> Plane:
        """The constants for images of a size (H, W), with the dtype and device of a tensor.

        statistics: `half` or `full`, the plane. fft_norm: see `scales`.
        """
        given = (statistics, fft_norm, *size, like.dtype, like.device)
        return cls.built(*given) if torch.compiler.is_compiling() else cls.kept(*given)

    @classmethod
    @functools.lru_cache(maxsize=64)
    def kept(cls, *given: Any) -> Plane:
        """The result of `built`, kept for later calls: a small layer would spend more time on it than on the images."""
        with torch.inference_mode(False), torch.no_grad():  # the first call may be one without gradients
            return cls.built(*given)

    @classmethod
    def built(
        cls, statistics: str, fft_norm: str, height: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> Plane:
        """The constants for images of a size (H, W); the other arguments are those of `of`."""
        pixels = height * width
        forward, inverse = scales(fft_norm, pixels)
        gain = forward * inverse * pixels
        if statistics == "full":
            one = torch.zeros(2, width, dtype=dtype, device=device)
            one[0, 0] = 1
            analysis, synthesis = forward * one, inverse * pixels * one
            return cls(gain, analysis, synthesis, analysis.sum(1, True), forward**2 * pixels, 0.0, 1)
        frequencies, parts = width // 2 + 1, 2 - width % 2
        frequency = torch.arange(frequencies, device=device)[:, None]
        turns = (frequency * torch.arange(width, device=device)) % width
        angle = turns.to(dtype) * (2 * math.pi / width)
        wave = torch.stack([angle.cos(), -angle.sin()])
        own_mirror = (frequency == 0) | (2 * frequency == width)
        times = torch.where(own_mirror, 1.0, 2.0).to(dtype)
        analysis = wave.sum(1) * (forward / frequencies)
        square = forward**2 / (2 * height * frequencies)
        return cls(
            gain,
            analysis,
            (times * wave).sum(1) * (inverse * height),
            analysis.sum(1, True),
            square * pixels**2,
            square * (height * parts) ** 2,
            parts,
        )

    def first_row(self, coefficients: Tensor) -> Tensor:
        """The change (C, W) of the first row when numbers are added to every coefficient of a channel.

        coefficients: (2, C), their real and imaginary parts.
        """
        return (self.synthesis.mT @ coefficients).mT  # which torch adds faster to images in channels_last format


class PooledSpectralNorm(torch.autograd.Function):
    """Spectral batch norm in training mode behind an affine map of the channels, which may be a batch norm.

    It normalizes the coefficients of h = before_gain * u + before_bias with u = (x - mean) * scale and scale =
    (variance + before_eps)^-0.5. With `batch_norm`, the gradient also flows through the mean and the variance. This is
    then a batch norm followed by a spectral one, in about as many passes over the images as one of them alone.

    Small images spend most of the time on numbers per channel, so these are computed in few operations.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        wide: Tensor,
        mean: Tensor,
        variance: Tensor,
        before_gain: Tensor,
        before_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        before_eps: float,
        eps: float,
        statistics: str,
        fft_norm: str,
        batch_norm: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C, H, W) -> y (N, C, H, W), and the coefficients' mean (2, C), real and imaginary, and variance (C,).

        wide: x in the precision of the statistics, which x may be below; y is in that of x, rounded once.
        mean, variance: (C,), the mean and the biased variance of x. before_gain, before_bias: (C,).
        gain, bias: (C,), the affine parameters of the spectral norm; the bias is added to every coefficient.
        statistics: `half` or `full`. fft_norm: see `scales`.
        Only y is differentiable, with respect to x, before_gain, before_bias, gain and bias.
        """
        images = dense(wide, wide)
        plane = Plane.of(statistics, fft_norm, images.shape[2:], images)
        scale = (variance + before_eps).rsqrt()
        slope = before_gain * scale
        # For x - mean: the mean square of its coefficients, and their mean, from its mean first row.
        energy, sums = variance * plane.energy, None
        if plane.row_energy:
            sums = row_sums(images, plane.parts)
            energy = torch.add(energy, moments(sums)[1], alpha=plane.row_energy)
        row = first_row_sum(images)
        centred = torch.addmm(plane.of_one * mean, plane.analysis, row.mT, beta=-1, alpha=1 / len(images))
        # For h = slope * (x - mean) + before_bias.
        coefficients = torch.addcmul(plane.of_one * before_bias, centred, slope)
        power = torch.addcmul(before_bias.square() * square_of_one(plane, images.shape[3]), slope.square(), energy)
        power = power - coefficients.square().sum(0)
        found = power.clamp_min(0)  # rounding can make it negative
        inverse = (found + eps).rsqrt()
        s = gain * inverse
        direct = plane.gain * s
        affine = direct * before_gain, direct * before_bias
        y = torch.batch_norm(x, *affine, mean, variance, False, 0.0, before_eps, False)
        added = coefficients * -s
        added[0] += bias
        by_x = direct * slope
        first_row = plane.first_row(added) + torch.addcmul(affine[1], by_x, mean, value=-1)[:, None]
        y[:, :, 0] = torch.addcmul(first_row, images[:, :, 0], by_x[:, None])

        ctx.save_for_backward(images, mean, scale, before_gain, before_bias, gain)
        ctx.kept = plane, sums, energy, centred, coefficients, power, inverse
        ctx.batch_norm = batch_norm
        ctx.mark_non_differentiable(coefficients, found)
        return y, coefficients, found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, mean, scale, before_gain, before_bias, gain = ctx.saved_tensors
        plane, sums, energy, centred, coefficients, power, inverse = ctx.kept
        wide = dense(g, images)
        n, (height, width) = len(images), images.shape[2:]
        count = n * height * width
        # One pass gives for each channel the sum of g * u and the sum of g. The weight, here `scale`, has no effect on
        # them, but CUDA needs one.
        _, along, total = torch.ops.aten.native_batch_norm_backward(
            wide, images, scale, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        edge = plane.synthesis @ first_row_sum(wide).mT  # the gradient of a number that is added to every coefficient
        s = gain * inverse
        direct, slope = plane.gain * s, before_gain * scale
        of_s = plane.gain * torch.addcmul(before_gain * along, before_bias, total) - (coefficients * edge).sum(0)
        of_power = torch.where(power > 0, -0.5 * of_s * s * inverse.square(), 0.0)
        twice = 2 * of_power
        of_coefficients = -torch.addcmul(s * edge, coefficients, twice)
        per_power = twice * before_bias * square_of_one(plane, width)
        of_slope = torch.addcmul((of_coefficients * centred).sum(0), twice * slope, energy)
        of_before_gain = torch.addcmul(direct * along, of_slope, scale)
        of_before_bias = torch.addcmul(per_power, direct, total) + (of_coefficients * plane.of_one).sum(0)

        # The gradient of h is direct * g plus multiples of h, of the row sums of h and of a first row. That of x is
        # `slope` times it. With a batch norm in front, its mean and its component along u are subtracted first.
        by_square = twice * slope.square()
        by_x, constant = by_square * (plane.energy / count), per_power
        if ctx.batch_norm:
            by_x = torch.addcmul(by_x, slope * scale, of_before_gain, value=-1 / count)
            constant = constant - of_before_bias
        constant = torch.addcmul(slope * constant / count, by_x, mean, value=-1)
        values = constant[:, None, None].expand(n, -1, height, plane.parts)
        if sums is not None:
            by_sum = by_square * (plane.row_energy / (n * height * plane.parts))
            constant = torch.addcmul(constant, by_sum, mean, value=-(width // plane.parts))
            values = torch.addcmul(constant[:, None, None], sums, by_sum[:, None, None])
        result = scaled_plus_rows(wide, slope * direct, values).addcmul_(images, by_x[:, None, None])
        result[:, :, 0] += (plane.analysis.mT @ (of_coefficients * (slope / n))).mT
        gradients = (of_before_gain, of_before_bias, of_s * inverse, edge[0])
        return (result.to(g.dtype), None, None, None, *gradients, None, None, None, None, None)


def square_of_one(plane: Plane, width: int) -> float:
    """The mean square of the coefficients of an image of ones."""
    return plane.energy + plane.row_energy * (width // plane.parts) ** 2


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


def row_sums(images: Tensor, parts: int) -> Tensor:
    """Row sums (N, C, H, parts) of images (N, C, H, W), over every parts-th column: with 2 parts, even and odd ones."""
    n, channels, height, width = images.shape
    if channels_last(images):
        rows = images.permute(0, 2, 3, 1).view(n, height, width // parts, parts, channels)
        return rows.sum(2).permute(0, 3, 1, 2)
    if height * width <= SMALL_IMAGE:
        return (images.view(-1, height * width) @ places(height, width, parts, images)).view(n, channels, height, parts)
    if parts == 1:
        return images.sum(3, keepdim=True)
    return torch.view_as_real(torch.view_as_complex(images.view(n, channels, height, -1, 2)).sum(3))


def first_row_sum(images: Tensor) -> Tensor:
    """The sum over images (N, C, H, W) of their first rows, (C, W)."""
    if not channels_last(images):
        return images[:, :, 0].sum(0)
    n, channels, _, width = images.shape
    return images.permute(0, 2, 3, 1)[:, 0].reshape(n, -1).sum(0).view(width, channels).mT  # torch sums this 5x as fast


def scaled_plus_rows(images: Tensor, gain: Tensor, values: Tensor) -> Tensor:
    """images * gain plus the adjoint of `row_sums`: values (N, C, H, parts), each at every parts-th column of its row.

    images: (N, C, H, W). gain: (C,).
    """
    n, channels, height, width = images.shape
    parts = values.shape[3]
    if channels_last(images):
        rows = images.permute(0, 2, 3, 1).view(n, height, width // parts, parts, channels)
        result = torch.addcmul(values.permute(0, 2, 3, 1)[:, :, None], rows, gain)
        return result.view(n, height, width, channels).permute(0, 3, 1, 2)
    result = images * gain[:, None, None]
    together = height if height * width <= SMALL_IMAGE else 1
    place = places(together, width, parts, images)
    result.view(-1, together * width).addmm_(values.reshape(-1, together * parts), place.mT)
    return result


def places(height: int, width: int, parts: int, like: Tensor) -> Tensor:
    """A matrix (height * width, height * parts) of zeros and ones that says which pixel belongs to which sum."""
    of_row = torch.eye(parts, dtype=like.dtype, device=like.device).repeat(width // parts, 1)
    return torch.kron(torch.eye(height, dtype=like.dtype, device=like.device), of_row)
