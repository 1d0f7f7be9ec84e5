"""ConvNorm, Liu et al., NeurIPS 2021, arXiv 2103.00673.

Behaviour of the authors' code, shengliu66/ConvNorm at revision aad1043a. Every output channel of a convolution is
divided, in the frequency domain, by the norm of its kernel's spectrum; a learned depth-wise kernel and a batch norm
follow.

Deviations: the filter is computed from the weights at evaluation too, where the authors keep a running average of it,
so that a layer can be evaluated at any image size and before any training step; it differs from theirs by the lag of
that average. `dilation` does not exist, as the authors' filter ignores it. The authors' `bpconv` is called `affine`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import Method, Role


class CircularFilter(torch.autograd.Function):
    """Each channel of x (N, C, H, W) times a real symbol (C, H, W//2 + 1) in the frequency domain.

    The symbol is even, so that the filter is its own adjoint: the gradient is filtered in the same way, and nothing
    but the symbol is saved. The symbol itself is a constant for the gradient, as in the authors' code.
    """

    @staticmethod
    def forward(x: Tensor, symbol: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x)
        torch.view_as_real(spectrum).mul_(symbol[..., None])
        return torch.fft.irfft2(spectrum, s=x.shape[-2:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return CircularFilter.apply(gradient, ctx.saved_tensors[0]), None


def inverse_spectrum_norm(weight: Tensor, height: int, width: int) -> Tensor:
    """One over the norm of each output channel's kernel spectrum on a grid, (out, height, width//2 + 1); no eps.

    The squared norm is the transform of the kernel's autocorrelation, summed over input channels, which has only
    (2k-1)^2 taps: a product with a cosine table takes the place of the transforms of all kernels.
    """
    out, _, k, _ = weight.shape
    taps = weight.reshape(out, -1, k * k)
    products = (taps.mT @ taps).view(out, k, k, k, k)
    # Sums over pairs of taps with the same offset; offsets run from 1 - k to k - 1, stored modulo 2k - 1.
    shift = torch.arange(k, device=weight.device)
    offset = (shift[:, None] - shift) % (2 * k - 1)
    place = (offset[:, None, :, None] * (2 * k - 1) + offset[None, :, None, :]).reshape(-1)
    correlation = weight.new_zeros(out, (2 * k - 1) ** 2).index_add_(1, place, products.reshape(out, -1))
    lag = torch.arange(2 * k - 1, device=weight.device, dtype=weight.dtype)
    lag = torch.where(lag < k, lag, lag - (2 * k - 1))
    down = lag[:, None] * torch.arange(height, device=weight.device, dtype=weight.dtype) / height
    across = lag[:, None] * torch.arange(width // 2 + 1, device=weight.device, dtype=weight.dtype) / width
    table = torch.cos(2 * math.pi * (down[:, None, :, None] + across[None, :, None, :]))
    power = correlation @ table.reshape((2 * k - 1) ** 2, -1)
    return power.clamp_min_(0).rsqrt_().view(out, height, width // 2 + 1)


class ConvNorm2d(nn.Module):
    """Convolution with normalized channels: (N, in_channels, H, W) -> (N, out_channels, H', W').

    kernel_size: odd. padding: at most kernel_size - 1. The convolution has no bias.
    affine: the depth-wise kernel, and the affine parameters of the batch norm. batch_norm: whether there is one.
    Parameters: weight (out, in/groups, k, k), affine.weight (out, 1, k, k), affine.bias (out,), batch_norm.*.
    Raises ValueError for an even kernel or a padding that is too large.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        *,
        affine: bool = True,
        batch_norm: bool = True,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"ConvNorm2d: kernel_size {kernel_size} is even; the depth-wise kernel needs an odd one")
        if padding > kernel_size - 1:
            raise ValueError(f"ConvNorm2d: padding {padding} is more than kernel_size - 1 = {kernel_size - 1}")
        self.weight = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=False).weight
        self.kernel_size, self.stride, self.padding, self.groups = kernel_size, stride, padding, groups
        half = (kernel_size - 1) // 2
        self.affine = (
            nn.Conv2d(out_channels, out_channels, kernel_size, padding=half, groups=out_channels) if affine else None
        )
        self.batch_norm = nn.BatchNorm2d(out_channels, affine=affine) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(x) if self.kernel_size == 1 else self.filtered(x)
        if self.affine is not None:
            y = self.affine(y)
        return y if self.batch_norm is None else self.batch_norm(y)

    def pointwise(self, x: Tensor) -> Tensor:
        """The spectrum of a 1x1 kernel is flat: each channel over the norm of its weights, without its gradient."""
        x = x[..., :: self.stride, :: self.stride]
        y = functional.conv2d(x, self.weight, groups=self.groups)
        return y * self.weight.detach().square().sum((1, 2, 3)).rsqrt().to(y.dtype)[:, None, None]

    def filtered(self, x: Tensor) -> Tensor:
        """The full convolution, filtered on its own grid; cropping and striding come after the filter."""
        full = functional.conv2d(x, self.weight, padding=self.kernel_size - 1, groups=self.groups)
        height, width = full.shape[-2:]
        with torch.autocast(x.device.type, enabled=False), torch.no_grad():
            # Squares of a spectrum near zero have no digit left in float32.
            exact = torch.float32 if x.device.type == "mps" else torch.float64
            symbol = inverse_spectrum_norm(self.weight.to(exact), height, width)
        wide = full.to(torch.promote_types(full.dtype, torch.float32))
        y = CircularFilter.apply(wide, symbol.to(wide)).to(full.dtype)
        crop = self.kernel_size - 1 - self.padding
        return y[..., crop : height - crop : self.stride, crop : width - crop : self.stride]


@dataclass(frozen=True)
class ConvNorm(Method):
    """Every convolution, the stem and the shortcuts included, becomes a ConvNorm2d with a batch norm of its own."""

    affine: bool = True
    batch_norm: bool = True

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        role: Role,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> nn.Module:
        return ConvNorm2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            groups,
            affine=self.affine,
            batch_norm=self.batch_norm,
        )

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()
