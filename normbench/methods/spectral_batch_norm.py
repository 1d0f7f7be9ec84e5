"""Spectral Batch Normalization, Cakaj, Mehnert and Yang, IJCNN 2023, arXiv 2306.16999.

Only the paper's abstract is public, and no code of its authors. The layer is that of the one public implementation,
uladzislau-varabei/spectral-batch-norm at revision c2725320, which is unofficial: statistics per channel, pooled over
frequencies. It is computed in closed form, without a Fourier transform, by Parseval's theorem.

Deviations: the unbiased running variance counts N*H*W values, not channels*H*(W//2 + 1); the running mean is two real
buffers that keep no graph; the weight and bias have shape (channels,). The default scale is `ortho` (it does not depend
on the image size), theirs was `backward`, then forward on one side and backward on the other (`full` here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.pooled_spectral_norm import Plane, PooledSpectralNorm, moments, scales
from normbench.methods.base import Method, Positive, Role

Scale = Literal["ortho", "backward", "forward", "full"]
Statistics = Literal["half", "full", "frequency"]


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
        self.planes: dict[Any, Plane] = {}  # the constants for each size of images, dtype and device
        if statistics == "frequency":
            self.register_buffer("image_size", torch.zeros(2, dtype=torch.long))
            # `image_size` as numbers, so that reading it does not wait for the device; None before the first batch.
            self.size: tuple[int, int] | None = None

    def plane(self, size: torch.Size, dtype: torch.dtype, device: torch.device) -> Plane:
        """The constants for images of a size (H, W), computed once."""
        given = size, dtype, device
        if torch.compiler.is_compiling():
            return Plane.of(self.mode, self.fft_norm, *given)
        if given not in self.planes:
            with torch.inference_mode(False), torch.no_grad():  # a later call may be one with gradients
                self.planes[given] = Plane.of(self.mode, self.fft_norm, *given)
        return self.planes[given]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            y = self.by_frequency(wide) if self.mode == "frequency" else self.pooled(wide)
        return y.to(x.dtype)

    def pooled(self, x: Tensor) -> Tensor:
        """Normalizes with statistics pooled over all frequencies of a channel, in closed form; keeps (N, C, H, W)."""
        if self.training:
            given = x.detach()
            mean, variance = moments(given)
            # As if a batch norm were in front that changes nothing.
            return self.normalized(x, given, mean, variance, (variance + 1).sqrt(), mean.clone(), 1.0, False)
        gain, row = self.running(x)
        y = x * gain[:, None, None]
        y[:, :, 0] += row
        return y

    def normalized(
        self,
        x: Tensor,
        images: Tensor,
        mean: Tensor,
        variance: Tensor,
        before_gain: Tensor,
        before_bias: Tensor,
        before_eps: float,
        batch_norm: bool,
    ) -> Tensor:
        """Normalizes in training mode, after shifting and scaling the channels; keeps (N, C, H, W).

        Updates the running statistics. The arguments are those of PooledSpectralNorm.
        """
        plane = self.plane(x.shape[2:], mean.dtype, x.device)
        own: tuple[Tensor, Tensor] = (self.weight, self.bias)
        if plane.gain != 1:
            own = self.weight * plane.gain, self.bias * plane.gain
        affine = (value.to(mean) for value in (before_gain, before_bias, *own))
        y, coefficients, variance = PooledSpectralNorm.apply(
            x, images, mean, variance, *affine, before_eps, self.eps, plane, batch_norm
        )
        self.track(coefficients, variance, x.numel() // x.shape[1], plane.square_of_one)
        return y

    def running(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What evaluation does to images as large as x: a factor (C,) on all pixels, a change (C, W) of the first row.

        For statistics per channel only.
        """
        plane = self.plane(x.shape[2:], self.weight.dtype, x.device)
        gain = self.weight * (self.running_var + self.eps).rsqrt()
        added = torch.addcmul(functional.pad(self.bias[None], (0, 0, 0, 1)), self.running_mean, gain, value=-1)
        return gain * plane.gain, plane.first_row(added)

    def by_frequency(self, x: Tensor) -> Tensor:
        """Normalizes with separate statistics over the batch for every frequency; keeps (N, C, H, W).

        Raises ValueError if the images have another size than those of the first training batch.
        """
        height, width = x.shape[-2:]
        forward, inverse = scales(self.fft_norm, height * width)
        spectrum = torch.fft.rfft2(x) * forward
        if self.size is None and self.training:
            self.size = (height, width)
            for stored, side in zip(self.image_size, self.size, strict=True):
                stored.fill_(side)  # without a tensor on the CPU, whose copy a GPU would be waited for
        if self.size != (height, width):
            known = "no" if self.size is None else f"{self.size[0]}x{self.size[1]}"
            raise ValueError(f"statistics by frequency of {known} images do not fit {height}x{width}")
        if self.training:
            mean = spectrum.mean(0)
            variance = (spectrum - mean).abs().square().mean(0)
            self.track(torch.stack([mean.real, mean.imag]), variance, x.shape[0])
        else:
            real, imaginary = self.running_mean.to(x)
            mean, variance = torch.complex(real, imaginary), self.running_var.to(x)
        gain = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        normalized = (spectrum - mean) * gain + self.bias[:, None, None]
        return torch.fft.irfft2(normalized, s=(height, width)) * (inverse * height * width)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int, unit: float = 1.0) -> None:
        """Updates the running statistics; statistics by frequency take their shape from the first batch.

        mean: (2, channels, ...), real and imaginary. variance: (channels, ...), biased, in multiples of `unit`.
        count: the values behind each.
        """
        if self.running_mean.shape != mean.shape:
            self.running_mean = self.running_mean.new_zeros(mean.shape)
            self.running_var = self.running_var.new_ones(variance.shape)
        unbiased = variance * (unit * count / max(count - 1, 1))
        running = [self.running_mean, self.running_var]
        new = [mean.to(self.running_mean), unbiased.to(self.running_var)]
        torch._foreach_lerp_(running, new, self.momentum)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        # Running statistics by frequency have the size of the training images, which is unknown until they are loaded.
        for name in ("running_mean", "running_var"):
            saved = state_dict.get(prefix + name)
            if self.mode == "frequency" and saved is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if self.mode == "frequency":
            height, width = self.image_size.tolist()
            self.size = (height, width) if height else None


class AfterBatchNorm(nn.Sequential):
    """BatchNorm2d, then SpectralBatchNorm2d: (N, channels, H, W) to the same shape.

    A training step computes both at once, as the statistics of the second follow from those of the first. Submodules
    and state are those of the sequence.
    """

    def __init__(self, batch_norm: nn.BatchNorm2d, spectral: SpectralBatchNorm2d):
        super().__init__(batch_norm, spectral)

    def forward(self, x: Tensor) -> Tensor:
        batch_norm, spectral = self
        assert isinstance(batch_norm, nn.BatchNorm2d)
        assert isinstance(spectral, SpectralBatchNorm2d)
        if not self.computed_at_once(batch_norm, spectral, x):
            return super().forward(x)
        running = batch_norm.get_buffer("running_mean"), batch_norm.get_buffer("running_var")
        with torch.autocast(x.device.type, enabled=False):
            if not spectral.training:
                gain, row = spectral.running(x)
                affine = batch_norm.weight * gain, batch_norm.bias * gain
                y = functional.batch_norm(x, *running, *affine, eps=batch_norm.eps)
                y[:, :, 0] += row
                return y
            with torch.no_grad():
                batch_norm.get_buffer("num_batches_tracked").add_(1)
                # On a GPU, the kernels that read the images convert them as they go.
                images = x.detach().to(running[0].dtype) if x.device.type == "cpu" else x.detach()
                mean, variance = moments(images, *running, batch_norm.momentum or 0.0)
            affine = batch_norm.weight, batch_norm.bias
            return spectral.normalized(x, images, mean, variance, *affine, batch_norm.eps, True)

    @staticmethod
    def computed_at_once(batch_norm: nn.BatchNorm2d, spectral: SpectralBatchNorm2d, x: Tensor) -> bool:
        """Whether both layers can be computed together.

        They must be in the same mode, with statistics per channel, the batch norm must have a momentum, affine
        parameters and running statistics of at least the precision of x and of float32, and each channel of x more than
        one value; not on MPS.
        """
        return (
            spectral.mode != "frequency"
            and x.device.type != "mps"
            and spectral.training == batch_norm.training
            and batch_norm.weight is not None
            and batch_norm.running_mean is not None
            and batch_norm.momentum is not None
            and batch_norm.running_mean.dtype == torch.promote_types(x.dtype, torch.float32)
            and x.numel() > x.shape[1]
        )


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
        return AfterBatchNorm(batch_norm, spectral)
