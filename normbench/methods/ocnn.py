"""OCNN, orthogonal convolutions: batch norm, and a penalty on how far convolutions are from orthogonal ones.

Wang, Chen, Chakraborty and Yu, CVPR 2020, arXiv 1911.12207. A convolution with stride S is orthogonal if its kernel K
(out, in, k, k), moved by a multiple of S, has no overlap with itself except where it has not moved, and is orthonormal
there. So the penalty of a layer is ||conv2d(K, K, stride S, padding P) - I||_F, not squared, I the identity of the
outputs at the shift 0. A 1x1 kernel is a matrix M; its penalty is ||G - I||_F, G the smaller of M M^T and M^T M.

Behaviour of the authors' code, samaonline/Orthogonal-Convolutional-Neural-Networks at aa7f5690: not the stem; of the
blocks of two 3x3 convolutions the first one alone; of bottlenecks all three.

Deviations: P is the largest multiple of S below k, so that all shifts with an overlap count. The released code has
padding 1, which leaves out the outer shifts of a 3x3 kernel at stride 1; at stride 2 it takes the shifts -1 and 1, at
which no two copies of the kernel lie, and asks for the identity at (1, 1). `padding: released` does the same. Each
group of a grouped convolution is compared with itself alone, and a layer has one norm over its groups. A dilated kernel
at stride 1 overlaps with itself where the shift is a multiple of the dilation, and there as the kernel itself does.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from normbench.functional.convolution import Conv2d
from normbench.functional.products import addmm, matmul
from normbench.functional.tables import table
from normbench.functional.weight_matrices import from_orthogonal, stacked
from normbench.methods.base import START, Between, ConvSpec, Method, Moment, NotNegative


class PenalizedConv2d(Conv2d):
    """A convolution that the penalty covers."""


def turns(size: int, places: tuple[int, int, int], device: torch.device) -> Tensor:
    """The angles at places of waves on a grid that holds the self-convolution, (waves, places), float64.

    places: first, end and step of the places along an axis. All pairs of them count, row by row.

    The waves are those of half of the grid, the constant one last: a real signal has conjugate coefficients at
    opposite frequencies.
    """
    grid = 2 * size - 1
    numbers, along_axis = torch.arange(1 - size, size, device=device), torch.arange(*places, device=device)
    waves = torch.cartesian_prod(numbers, numbers)[: (grid**2 + 1) // 2]
    # Turns are reduced while still integers, because the cosine of a large angle loses digits.
    steps = (waves[:, None] * torch.cartesian_prod(along_axis, along_axis)).sum(2) % grid
    return steps.double() * (2 * torch.pi / grid)


def analysis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix from the taps of a kernel to Re, Im, Im and -Re of its spectrum, (waves * 4, taps)."""
    angles = turns(size, (0, size, 1), device)
    real, imaginary = angles.cos(), angles.sin()
    return torch.stack([real, imaginary, imaginary, -real], 1).flatten(0, 1).to(dtype)


def synthesis(size: int, stride: int, padding: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix from Re and Im of a spectrum to the self-convolution at the shifts, (shifts, waves * 2)."""
    angles = turns(size, (-padding, padding + 1, stride), device)
    waves = torch.stack([angles.cos(), angles.sin()], 1) * (2 / (2 * size - 1) ** 2)
    waves[-1] /= 2  # It has no opposite.
    return waves.flatten(0, 1).T.to(dtype)


def minus_target(
    size: int, stride: int, padding: int, outputs: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Minus what the self-convolution should be, (shifts, outputs^2): the identity in the middle, zero elsewhere."""
    along = padding * 2 // stride + 1
    target = torch.zeros(along, along, outputs**2, dtype=dtype, device=device)
    target[along // 2, along // 2] = -torch.eye(outputs, dtype=dtype, device=device).flatten()
    return target.flatten(0, 1)


def overlaps(stack: Tensor, stride: int, padding: int) -> Tensor:
    """conv2d(K, K, stride, padding) minus its target for kernels (S, out, k, k, in); (S, shifts, out * out).

    A product of spectra, in true float32: with 3x3 kernels a quarter of the operations of the convolution, and no
    memory for the kernel at every shift.
    """
    count, outputs, size, _, inputs = stack.shape
    kernels = stack.flatten(2, 3).flatten(0, 1)
    spectrum = matmul(table(analysis, size, like=stack).expand(len(kernels), -1, -1), kernels)
    parts = spectrum.view(count, outputs, -1, 2, 2, inputs).permute(0, 2, 3, 1, 4, 5)
    parts = parts.reshape(-1, 2 * outputs, 2 * inputs)
    # [Re Im] and [Im -Re] times [Re Im]^T: the real and the imaginary part of the spectrum times its adjoint.
    products = matmul(parts, parts[:, :outputs].mT).view(count, -1, outputs**2)
    target = table(minus_target, size, stride, padding, outputs, like=stack)
    return addmm(target, table(synthesis, size, stride, padding, like=stack).expand(count, -1, -1), products)


@dataclass(frozen=True)
class OCNN(Method):
    """Batch norm, and `coefficient` times the sum over layers of ||conv2d(K, K) - I||_F in the loss.

    coefficient: 0.1 is the default of the authors' code; its README has 0.5 for ResNet-50.
    padding: `full` for all shifts with an overlap; `released` is that of the authors' code.
    layers: `released` are those of the authors' code; `all` are all convolutions but the stem.
    """

    tunable: ClassVar = {"coefficient": Between(1e-3, 1.0)}

    coefficient: NotNegative = 0.1
    padding: Literal["full", "released"] = "full"
    layers: Literal["released", "all"] = "released"

    def conv(self, spec: ConvSpec) -> nn.Module:
        """Raises ValueError for a dilated convolution with a stride, whose overlaps are not those of its kernel."""
        role = spec.role
        first = spec.kernel_size == 1 or not role.last_in_block
        if role.place == "stem" or spec.without_norm or not (first or self.layers == "all"):
            return super().conv(spec)
        if spec.kernel_size > 1 and spec.stride > 1 and spec.dilation > 1:
            raise ValueError(f"ocnn: no penalty is known of a convolution with stride {spec.stride} and dilation")
        return spec.plain(bias=False, kind=PenalizedConv2d)

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for layer in model.modules():
            if isinstance(layer, PenalizedConv2d):
                stride = layer.stride[0] if layer.weight.shape[2] > 1 else 1
                alike[(stride, layer.groups, *layer.weight.shape)].append(layer.weight)
        if not alike:
            return None
        norms = []
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            for (stride, groups, *_), some in alike.items():
                distances = self.distances(stacked(some, groups), stride).reshape(len(some), -1)
                norms.append(torch.linalg.vector_norm(distances, dim=1))
            return self.coefficient * torch.cat(norms).sum()

    def distances(self, stack: Tensor, stride: int) -> Tensor:
        """What should be zero for each kernel (S, out, k, k, in) of layers with a stride; kernels first."""
        size = stack.shape[2]
        if size == 1:
            return from_orthogonal(stack)
        padding = (size - 1) // stride * stride if self.padding == "full" else 1
        return overlaps(stack, stride, padding)
