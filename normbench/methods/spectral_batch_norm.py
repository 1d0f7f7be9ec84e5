"""Spectral Batch Normalization, Cakaj, Mehnert and Yang, IJCNN 2023, arXiv 2306.16999.

Only the paper's abstract is public, and no code of its authors. The layer is that of the one public implementation,
uladzislau-varabei/spectral-batch-norm at revision c2725320, which is unofficial: statistics per channel, pooled over
frequencies. It is computed in closed form, without a Fourier transform, by Parseval's theorem.

Deviations: the unbiased running variance counts N*H*W values, not channels*H*(W//2 + 1); the running mean is two real
buffers that keep no graph; the weight and bias have shape (channels,). The default scale is `ortho` (it does not depend
on the image size), theirs was `backward`, then forward on one side and backward on the other (`full` here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normbench.methods.base import Method, Positive, Role

Scale = Literal["ortho", "backward", "forward", "full"]
Statistics = Literal["half", "full", "frequency"]


def scales(fft_norm: str, pixels: int) -> tuple[float, float]:
    """The factors of the forward and of the inverse transform, for an image of `pixels` pixels."""
    return {
        "backward": (1.0, 1 / pixels),
        "ortho": (pixels**-0.5, pixels**-0.5),
        "forward": (1 / pixels, 1.0),
        "full": (1 / pixels, 1 / pixels),
    }[fft_norm]


class SpectralBatchNorm2d(nn.Module):
    """Batch normalization of Fourier coefficients: (N, channels, H, W) to the same shape and dtype.

    fft_norm: the scale of the transforms, as in `torch.fft` (`full` divides by the pixels on both sides).
    statistics: `half` pools the batch and the half plane of a real transform, as the public code does; `full` pools the
        whole plane; `frequency` has statistics of its own for each frequency, over the batch alone (an ablation, not a
        published method; its running statistics take the size of the first training batch and hold for that size).
    momentum: weight of the new value in the running statistics.
    Parameters: weight (channels,), bias (channels,), the latter added to every coefficient. Buffers: running_mean
    (2, channels[, H, W//2 + 1]), real and imaginary, running_var (channels[, H, W//2 + 1]), and image_size (2,) with
    `frequency`.
    """

    running_mean: Tensor
    running_var: Tensor
    image_size: Tensor

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        fft_norm: Scale = "ortho",
        statistics: Statistics = "half",
    ):
        super().__init__()
        self.eps, self.momentum, self.fft_norm, self.mode = eps, momentum, fft_norm, statistics
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(2, channels))
        self.register_buffer("running_var", torch.ones(channels))
        if statistics == "frequency":
            self.register_buffer("image_size", torch.zeros(2, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            y = self.by_frequency(wide) if self.mode == "frequency" else self.pooled(wide)
        return y.to(x.dtype)

    def pooled(self, x: Tensor) -> Tensor:
        """Statistics of each channel over all its frequencies, in closed form."""
        height, width = x.shape[-2:]
        forward, inverse = scales(self.fft_norm, height * width)
        if self.training:
            real, imaginary, variance = self.batch_statistics(x, forward)
            self.track(torch.stack([real, imaginary]), variance, x.shape[0] * height * width)
        else:
            real, imaginary, variance = self.running_mean[0], self.running_mean[1], self.running_var
        gain = self.weight * (variance + self.eps).rsqrt()
        y = x * (gain * (forward * inverse * height * width))[:, None, None]
        # What is added to every coefficient ends in the corner pixel (full plane) or in the first image row (half).
        added = self.bias - real * gain
        if self.mode == "full":
            row = nn.functional.pad((added * (inverse * height * width))[:, None], (0, width - 1))
        else:
            cosine, sine = self.row_basis(width, x)
            row = (added[:, None] * cosine - (imaginary * gain)[:, None] * sine) * (inverse * height)
        return y + nn.functional.pad(row[:, None], (0, 0, 0, height - 1))

    def batch_statistics(self, x: Tensor, forward: float) -> tuple[Tensor, Tensor, Tensor]:
        """Real and imaginary mean and the variance of the coefficients of each channel, (channels,) each."""
        height, width = x.shape[-2:]
        energy = x.square().sum((2, 3)) * (height * width)
        if self.mode == "full":
            real = forward * x[:, :, 0, 0].mean(0)
            variance = forward**2 * energy.mean(0) / (height * width) - real.square()
            return real, torch.zeros_like(real), variance.clamp_min(0)  # rounding can take it below zero
        # The half plane is half of the whole one plus half of the columns that are their own mirror image.
        energy = energy + height * x.sum(3).square().sum(2)
        if width % 2 == 0:
            energy = energy + height * (x[..., ::2].sum(3) - x[..., 1::2].sum(3)).square().sum(2)
        frequencies = width // 2 + 1
        angle = self.angles(width, x)
        first_row = x[:, :, 0].mean(0) * (forward / frequencies)
        real, imaginary = first_row @ angle.cos().sum(0), -(first_row @ angle.sin().sum(0))
        variance = forward**2 * energy.mean(0) / (2 * height * frequencies) - real.square() - imaginary.square()
        return real, imaginary, variance.clamp_min(0)

    @staticmethod
    def angles(width: int, like: Tensor) -> Tensor:
        """2 pi v w / width for the half-plane frequencies v and columns w, (width//2 + 1, width)."""
        frequency = torch.arange(width // 2 + 1, dtype=like.dtype, device=like.device)
        column = torch.arange(width, dtype=like.dtype, device=like.device)
        return frequency[:, None] * column * (2 * math.pi / width)

    @classmethod
    def row_basis(cls, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled inverse transforms of a row whose coefficients are all 1, and all i, (width,) each."""
        angle = cls.angles(width, like)
        weight = torch.full((len(angle), 1), 2.0, dtype=like.dtype, device=like.device)
        weight[0] = 1
        if width % 2 == 0:
            weight[-1] = 1
        return (weight * angle.cos()).sum(0), -(weight * angle.sin()).sum(0)

    def by_frequency(self, x: Tensor) -> Tensor:
        """Statistics of every frequency of every channel over the batch."""
        height, width = x.shape[-2:]
        forward, inverse = scales(self.fft_norm, height * width)
        spectrum = torch.fft.rfft2(x) * forward
        size = self.image_size.tolist()
        if size != [height, width] and not (self.training and size == [0, 0]):
            raise ValueError(f"statistics by frequency of {size[0]}x{size[1]} images do not fit {height}x{width}")
        if self.training:
            self.image_size.copy_(torch.tensor([height, width]))
            mean = spectrum.mean(0)
            variance = (spectrum - mean).abs().square().mean(0)
            self.track(torch.stack([mean.real, mean.imag]), variance, x.shape[0])
        else:
            mean, variance = torch.complex(self.running_mean[0], self.running_mean[1]), self.running_var
        gain = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        normalized = (spectrum - mean) * gain + self.bias[:, None, None]
        return torch.fft.irfft2(normalized, s=(height, width)) * (inverse * height * width)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics; those of frequencies take their shape from the first batch."""
        if self.running_mean.shape != mean.shape:
            self.running_mean = self.running_mean.new_zeros(mean.shape)
            self.running_var = self.running_var.new_ones(variance.shape)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        # Running statistics of frequencies have the shape of the images that they were made from.
        for name in ("running_mean", "running_var"):
            saved = state_dict.get(prefix + name)
            if self.mode == "frequency" and saved is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


@dataclass(frozen=True)
class SpectralBatchNorm(Method):
    """A BatchNorm2d everywhere and, where `placement` says, a SpectralBatchNorm2d after it.

    placement: `all` norms, those of the `last_stage`, or `last_in_block`, the last norm of each residual block of the
    last stage. Which of them the paper uses is not public ("deeper blocks").
    """

    placement: Literal["all", "last_stage", "last_in_block"] = "last_stage"
    fft_norm: Scale = "ortho"
    statistics: Statistics = "half"
    eps: Positive = 1e-5
    momentum: Positive = 0.1

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        batch_norm = nn.BatchNorm2d(channels)
        chosen = {
            "all": True,
            "last_stage": role.last_stage,
            "last_in_block": role.last_stage and role.last_in_block,
        }[self.placement]
        if not chosen:
            return batch_norm
        spectral = SpectralBatchNorm2d(
            channels, eps=self.eps, momentum=self.momentum, fft_norm=self.fft_norm, statistics=self.statistics
        )
        return nn.Sequential(batch_norm, spectral)
