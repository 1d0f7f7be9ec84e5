"""The layers of the four methods written with the operations of their authors' code, for comparisons of speed.

They follow the published formulas, as far as the current torch has the operations. They are for training mode only and
have no running statistics, which cost next to nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Deconv(nn.Module):
    """Network Deconvolution: unfold, covariance and 15 products of the Newton-Schulz iteration, all under autograd."""

    def __init__(self, channels: int, out: int, kernel: int, padding: int, block: int = 64, iterations: int = 5):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=padding)
        self.groups, self.features, self.iterations = channels // block, block * kernel**2, iterations

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, H, W) -> (N, out, H, W)."""
        kernel, padding = self.conv.kernel_size[0], self.conv.padding[0]
        rows = functional.unfold(x, kernel, padding=padding, stride=3).transpose(1, 2)
        rows = rows.reshape(-1, self.features, self.groups).transpose(1, 2).reshape(-1, self.features)
        mean = rows.mean(0)
        rows = rows - mean
        identity = torch.eye(self.features, device=x.device)
        matrix = rows.T @ rows / len(rows) + 1e-5 * identity
        scale = matrix.norm()
        y, z = matrix / scale, identity
        for _ in range(self.iterations):
            t = 0.5 * (3.0 * identity - z @ y)
            y, z = y @ t, t @ z
        deconv = z / scale.sqrt()
        out = self.conv.out_channels
        weight = self.conv.weight.reshape(out, self.features, self.groups).transpose(1, 2)
        weight = weight.reshape(-1, self.features) @ deconv
        bias = self.conv.bias - (weight @ mean).view(out, -1).sum(1)
        weight = weight.view(out, self.groups, self.features).transpose(1, 2)
        return functional.conv2d(x, weight.reshape(self.conv.weight.shape), bias, padding=padding)


class ConvNorm(nn.Module):
    """ConvNorm: Fourier transforms of the output and of every kernel; the latter are not under autograd."""

    def __init__(self, channels: int, out: int, kernel: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel - 1, bias=False)
        self.crop = kernel - 1 - padding
        self.affine = nn.Conv2d(out, out, kernel, padding=(kernel - 1) // 2, groups=out)
        self.batch_norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, H, W) -> (N, out, H, W)."""
        y = self.conv(x)
        size = y.shape[-2:]
        with torch.no_grad():
            kernels = torch.view_as_real(torch.fft.rfft2(self.conv.weight, s=size))
            symbol = kernels.square().sum((1, -1)).rsqrt()
        y = torch.fft.irfft2(torch.fft.rfft2(y) * symbol, s=size)
        y = y[..., self.crop : size[0] - self.crop, self.crop : size[1] - self.crop]
        return self.batch_norm(self.affine(y))


class SpectralBatchNorm(nn.Module):
    """Spectral Batch Normalization as in its one public implementation: transform, normalize, transform back."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(value * torch.ones(1, channels, 1, 1)) for value in (1.0, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, H, W) -> the same shape."""
        spectrum = torch.fft.rfft2(x, norm="ortho")
        mean = spectrum.mean((0, 2, 3), keepdim=True)
        variance = (spectrum - mean).abs().square().mean((0, 2, 3), keepdim=True)
        normalized = (spectrum - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias
        return torch.fft.irfft2(normalized, s=x.shape[-2:], norm="ortho")


class FantasticFour:
    """The four bounds of every convolution, computed one after the other with one power iteration each."""

    def __init__(self, model: nn.Module):
        self.weights = [p for p in model.parameters() if p.dim() > 2]
        self.vectors = [[torch.randn_like(m[0]) for m in self.matrices(w.detach())] for w in self.weights]

    @staticmethod
    def matrices(weight: Tensor) -> list[Tensor]:
        """Returns the four matrices into which a kernel (out, in, height, width) is reshaped."""
        o, i, h, w = weight.shape
        return [
            weight.transpose(1, 2).reshape(o * h, i * w),
            weight.permute(0, 3, 1, 2).reshape(o * w, i * h),
            weight.reshape(o, i * h * w),
            weight.transpose(0, 1).reshape(i, o * h * w),
        ]

    def penalty(self) -> Tensor:
        """Returns the sum of the least bounds of all convolutions, a scalar."""
        norms = []
        for weight, vectors in zip(self.weights, self.vectors, strict=True):
            four = []
            for index, matrix in enumerate(self.matrices(weight)):
                with torch.no_grad():
                    left = functional.normalize(matrix @ vectors[index], dim=0)
                    vectors[index] = functional.normalize(matrix.T @ left, dim=0)
                four.append(left @ matrix @ vectors[index])
            norms.append(math.sqrt(weight.shape[2] * weight.shape[3]) * torch.stack(four).min())
        return torch.stack(norms).sum()
