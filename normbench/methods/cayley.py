"""Orthogonal convolutions by the Cayley transform, Trockman and Kolter, ICLR 2021, arXiv 2104.07167, with MaxMin.

After the authors' code (locuslab/orthogonal-convolutions at revision 543b0aad). The convolution is circular. At each
frequency its matrix, (out, in), is replaced by its Cayley transform, so that the layer is orthogonal on images of any
size: it keeps norms if it has as many outputs as inputs, or more, and is a projection if it has fewer. As in the
authors' code, a stride s takes the s x s pixels of each block as channels (`pixel_unshuffle`), which the kernel, of
size k // s there, then mixes; no norm follows; linear layers, the last one included, are orthogonal as well; and the
activation is MaxMin (GroupSort with pairs).

Deviations: the learned scale `alpha` is there before the first forward pass (the authors' is created in it, and missing
from an optimizer that was built earlier). It is the norm of the kernel and not that of its half spectrum, from which it
differs by a factor that depends on the size of the images (so the authors' alpha is about sqrt(H*W/2) times larger).
Images need not be square or keep their size; those that the stride does not divide are surrounded by zeros below and on
the right. The matrices of a grouped convolution are those of its groups. Residual additions are those of the network,
so that the Lipschitz constants of both branches add up; the authors' networks take a learned average of the two. The
gates of squeeze-and-excitation are plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.blocks import blocks, check_size
from normbench.functional.cayley_transform import cayley
from normbench.functional.constants import constant
from normbench.functional.maxmin import MaxMin
from normbench.functional.products import matmul
from normbench.functional.tables import table
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Method, Role


def phases(height: int, width: int, taps: int, dilation: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Real and imaginary parts of exp(i(ps + qt)): (2, height * (width // 2 + 1), taps^2).

    p and q are the pixels from the middle of the kernel to its taps; s and t are the frequencies of a transform of real
    images.
    """
    down, across, taps_down = (
        torch.arange(count, dtype=torch.float64, device=device) for count in (height, width // 2 + 1, taps)
    )
    offsets = dilation * (taps_down - (taps - 1) // 2)
    turns = (down[:, None] * offsets / height)[:, None, :, None] + (across[:, None] * offsets / width)[:, None, :]
    angles = (2 * torch.pi * turns).flatten(2).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()]).to(dtype)


class Scaled(torch.autograd.Function):
    """A weight, scaled to the norm alpha (0-d)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(weight)
        factor = alpha / norm
        ctx.save_for_backward(weight, norm, factor)
        return weight * factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, norm, factor = ctx.saved_tensors
        of_alpha = (gradient * weight).sum() / norm
        return (gradient - weight * (of_alpha / norm)) * factor, of_alpha


class CayleyConv2d(nn.Module):
    """Orthogonal circular convolution: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up.

    kernel_size: odd. dilation: 1 where there is a stride, else any. Under autocast, the result has the precision of a
    convolution; what is in between is float32.
    Parameters: weight (out, in/groups * stride^2, k, k), k = max(1, kernel_size // stride); alpha, 0-d; bias (out,).
    Raises ValueError for an even kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"CayleyConv2d: kernel_size {kernel_size} is even; its middle would lie between two pixels"
            )
        self.stride, self.groups, self.dilation = stride, groups, dilation
        self.taps = max(1, kernel_size // stride)
        drawn = nn.Conv2d(in_channels * stride**2, out_channels, self.taps, groups=groups)
        self.weight, self.bias = drawn.weight, drawn.get_parameter("bias")
        self.alpha = nn.Parameter(torch.linalg.vector_norm(drawn.weight.detach()))

    def forward(self, x: Tensor) -> Tensor:
        kind, single = x.device.type, torch.promote_types(x.dtype, torch.float32)
        narrow = torch.is_autocast_enabled(kind) and single == torch.float32
        result = torch.get_autocast_dtype(kind) if narrow else x.dtype
        with torch.autocast(kind, enabled=False):
            x = blocks(x.to(single), self.stride)
            count, channels, height, width = x.shape
            q = self.matrices(height, width, single)
            spectrum = torch.fft.rfft2(x).permute(2, 3, 1, 0).reshape(len(q), channels // self.groups, count)
            found = matmul(q, spectrum).view(height, width // 2 + 1, -1, count).permute(3, 2, 0, 1)
            y = torch.fft.irfft2(found, s=(height, width)) + self.bias.to(single)[:, None, None]
        return y.to(result)

    def matrices(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """Orthogonal matrices (frequencies * groups, out/groups, in/groups * stride^2), complex.

        height, width: of the images that they are for, after the stride.
        """
        sources = (self.weight, self.alpha)
        return constant(self, (height, width, dtype), sources, lambda: cayley(self.symbols(height, width, dtype)))

    def symbols(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """The matrices of the scaled kernel, before the transform."""
        kernel = Scaled.apply(self.weight.to(dtype), self.alpha.to(dtype))
        out, inputs = kernel.shape[:2]
        waves = table(phases, height, width, self.taps, self.dilation, like=kernel)
        parts = matmul(waves, kernel.flatten(2).flatten(0, 1).mT)
        return torch.complex(*parts.unbind()).view(-1, out // self.groups, inputs)


class CayleyWeight(Together):
    """A parametrization of a matrix (out, in): the Cayley transform of its multiple of norm alpha (0-d)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.alpha = nn.Parameter(torch.linalg.vector_norm(weight.detach()))

    @classmethod
    def of_all(cls, parts: Sequence[CayleyWeight], originals: Sequence[Tensor]) -> list[Tensor]:
        with torch.autocast(originals[0].device.type, enabled=False):
            pairs = zip(parts, originals, strict=True)
            return [cayley(Scaled.apply(original, part.alpha)[None])[0] for part, original in pairs]


@dataclass(frozen=True)
class Cayley(Method):
    """Orthogonal convolutions and linear layers, MaxMin as the activation, no norms."""

    def conv(self, spec: ConvSpec) -> nn.Module:
        """Raises ValueError for a padding that changes the size, and for a stride with a dilation."""
        if spec.role.place == "gate":
            return super().conv(spec)
        check_size("cayley: a circular", spec.kernel_size, spec.stride, spec.padding, spec.dilation)
        return CayleyConv2d(
            spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride, spec.groups, spec.dilation
        )

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return MaxMin() if role.activation else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        layer = nn.Linear(in_features, out_features)
        return parametrize.register_parametrization(layer, "weight", CayleyWeight(layer.weight))

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)
