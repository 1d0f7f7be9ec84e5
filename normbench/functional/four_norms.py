"""Power iteration on the four matrices of Fantastic Four (Singla and Feizi, arXiv 1911.10258) for many kernels at once.

The matrices R (o*h, i*w), S (o*w, i*h), T (o, i*h*w) and U (i, o*h*w) are reshapings of one kernel (o, i, h, w). They
are never formed. Each has a singular vector with an entry for every output channel (and some of the kernel's rows or
columns), and one with an entry for every input channel. With the channels as rows, the four vectors of either side
lie side by side as columns:

    side of the outputs, (o, C): R has h columns, S has w, T has 1, U has h*w
    side of the inputs, (i, C): R has w columns, S has h, T has h*w, U has 1

C = h + w + 1 + h*w is the same on both sides. At each of the kernel's taps every column of the one side belongs to at
most one column of the other, which `pairing` tells. A matrix times a vector is then the kernel, as a matrix (o*h*w, i)
in the memory of a channels_last weight, times these columns, and a sum over pairs. The vectors of all kernels with h*w
taps lie below each other, so that only the products with the kernels need one operation for each kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int, int]  # groups, output channels and input channels of each group


def columns(height: int, width: int) -> tuple[list[int], list[int]]:
    """The numbers of columns that R, S, T and U have on the side of the outputs and on that of the inputs."""
    return [height, width, 1, height * width], [width, height, height * width, 1]


def pairing(height: int, width: int) -> Tensor:
    """Which columns of the two sides belong together at each tap: zeros and ones (C, height * width, C)."""
    of_outputs, of_inputs = ([0, height, height + width, height + width + 1], [0, width, height + width, -1])
    total = height + width + 1 + height * width
    pairs = torch.zeros(total, height * width, total)
    for row in range(height):
        for column in range(width):
            tap = row * width + column
            for matrix, (one, other) in enumerate([(row, column), (column, row), (0, tap), (tap, 0)]):
                pairs[of_outputs[matrix] + one, tap, of_inputs[matrix] + other] = 1
    return pairs


def cells(channels: list[int], widths: list[int]) -> Tensor:
    """For each entry of vectors that lie side by side, the number 4 * kernel + matrix of the vector it belongs to.

    channels: the rows of each kernel. widths: the columns of each matrix. Returns int64 (sum of channels, C).
    """
    kernel = torch.arange(len(channels)).repeat_interleave(torch.tensor(channels))
    matrix = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return 4 * kernel[:, None] + matrix


@dataclass(frozen=True)
class Kernels:
    """What is constant about kernels with the same number of taps.

    sizes: of each layer, a layer with groups having as many kernels. pairs: `pairing`. outputs, inputs: the cells (see
    `cells`) of the vectors of both sides.
    """

    sizes: list[Size]
    pairs: Tensor
    outputs: Tensor
    inputs: Tensor

    def count(self) -> int:
        """The number of kernels."""
        return sum(groups for groups, _, _ in self.sizes)

    def by_output(self, values: Tensor) -> list[Tensor]:
        """Splits rows, several to an output channel or one, into those of each layer, (groups, rows, columns)."""
        parts = values.split([groups * o * (len(values) // len(self.outputs)) for groups, o, _ in self.sizes])
        return [part.view(size[0], -1, values.shape[1]) for part, size in zip(parts, self.sizes, strict=True)]

    def by_input(self, values: Tensor) -> list[Tensor]:
        """Splits rows, one to an input channel, into those of each layer, (groups, input channels, columns)."""
        parts = values.split([groups * i for groups, _, i in self.sizes])
        return [part.view(size[0], -1, values.shape[1]) for part, size in zip(parts, self.sizes, strict=True)]

    def spread(self, outputs: Tensor) -> list[Tensor]:
        """The columns (outputs, C) that belong at each tap to those of the inputs, (groups, o*h*w, C) of each layer."""
        together = outputs @ self.pairs.flatten(1)
        return self.by_output(together.view(-1, self.pairs.shape[2]))


def as_matrix(weight: Tensor, groups: int) -> Tensor:
    """A weight (groups * o, i, h, w) as matrices (groups, o*h*w, i): a view if it is in channels_last format."""
    return weight.detach().permute(0, 2, 3, 1).reshape(groups, -1, weight.shape[1])


def directions(found: Tensor, cells: Tensor, before: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The vectors `found` scaled to norm 1, and their norms (count, 4) before that, with cells as in `cells`.

    A zero vector, as from a zero kernel, becomes that of `before`.
    """
    norms = found.new_zeros(4 * count).index_add_(0, cells.flatten(), found.square().flatten()).sqrt_()
    of_entries = norms[cells]
    return torch.where(of_entries == 0, before, found / of_entries), norms.view(count, 4)


def power_step(weights: list[Tensor], kernels: Kernels, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
    """One step of power iteration: new vectors (outputs, C) and (inputs, C), and norms (kernels, 4).

    It starts from the right vectors: those of U on the side of the outputs, the others on that of the inputs. The
    others are used only where a product is zero. Each norm is that of the matrix times a unit vector, and so a lower
    estimate of the matrix's spectral norm.
    """
    matrices = [as_matrix(weight, groups) for weight, (groups, _, _) in zip(weights, kernels.sizes, strict=True)]
    count, taps = kernels.count(), kernels.pairs.shape[1]
    # The left vector of U comes first.
    right = kernels.by_output(outputs[:, -taps:].reshape(-1, 1))
    found = torch.cat([torch.bmm(r.mT, m).view(-1, 1) for r, m in zip(right, matrices, strict=True)])
    left, _ = directions(found, kernels.inputs[:, -1:], inputs[:, -1:], count)
    inputs = torch.cat([inputs[:, :-1], left], 1)
    # The left vectors of the others and the right one of U.
    found = torch.cat([torch.bmm(m, v).flatten(0, 1) for m, v in zip(matrices, kernels.by_input(inputs), strict=True)])
    found = found.view(len(outputs), -1) @ kernels.pairs.flatten(1).mT
    outputs, of_outputs = directions(found, kernels.outputs, outputs, count)
    # The right vectors of the others.
    spread = kernels.spread(outputs)
    found = torch.cat([torch.bmm(v.mT, m).mT.flatten(0, 1) for m, v in zip(matrices, spread, strict=True)])[:, :-1]
    rights, of_inputs = directions(found, kernels.inputs[:, :-1], inputs[:, :-1], count)
    return outputs, torch.cat([rights, left], 1), torch.cat([of_inputs[:, :3], of_outputs[:, 3:]], 1)


class LeastNorm(torch.autograd.Function):
    """The smallest of the four norms of each kernel, differentiable in the weights.

    The gradient is the outer product of the left and right vectors of the matrix with the smallest norm, reshaped to
    the kernel.
    """

    @staticmethod
    def forward(ctx: Any, norms: Tensor, outputs: Tensor, inputs: Tensor, kernels: Kernels, *weights: Tensor) -> Tensor:
        """norms (kernels, 4), vectors (outputs, C) and (inputs, C), weights (groups * o, i, h, w) -> (kernels,)."""
        least, which = norms.min(1)
        ctx.save_for_backward(which, outputs, inputs)
        ctx.kernels, ctx.like = kernels, [(w.shape, w.is_contiguous()) for w in weights]
        return least

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        which, outputs, inputs = ctx.saved_tensors
        kernels: Kernels = ctx.kernels
        with torch.autocast(gradient.device.type, enabled=False):
            chosen = gradient.new_zeros(len(gradient), 4).scatter_(1, which[:, None], gradient[:, None])
            lefts = kernels.spread(outputs * chosen.view(-1)[kernels.outputs])
            gradients = []
            for left, right, (shape, contiguous) in zip(lefts, kernels.by_input(inputs), ctx.like, strict=True):
                o, i, h, w = shape
                of_weight = torch.bmm(left, right.mT).view(o, h, w, i).permute(0, 3, 1, 2)
                gradients.append(of_weight.contiguous() if contiguous else of_weight)
        return (None, None, None, None, *gradients)
