"""Power iteration on the four matrices of Fantastic Four (Singla and Feizi, arXiv 1911.10258) for many kernels at once.

The matrices R (o*h, i*w), S (o*w, i*h), T (o, i*h*w) and U (i, o*h*w) are reshapings of one kernel (o, i, h, w). They
are never formed. Each has a singular vector with an entry for every output channel (and some of the kernel's rows or
columns), and one with an entry for every input channel. With the channels as rows, the four vectors of either side
lie side by side as columns:

    side of the outputs, (o, C): R has h columns, S has w, T has 1, U has h*w
    side of the inputs, (i, C): R has w columns, S has h, T has h*w, U has 1

C = h + w + 1 + h*w is the same on both sides. At each of the kernel's taps every column of the one side belongs to at
most one column of the other, which `pairing` tells. A matrix times a vector is then the kernel, as a matrix in the
memory of its weight, times these columns, and a sum over pairs. In channels_last format that matrix is (o*h*w, i), so
that the sum is on the side of the outputs, and in contiguous format (o, i*h*w), with the sum on that of the inputs. The
vectors of all kernels with h*w taps lie below each other, so that only the products with the kernels need one operation
for each kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normbench.functional.products import matmul

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


@dataclass(frozen=True)
class Side:
    """What is constant about the vectors of one side, (rows, C), where a row is a channel of a kernel.

    lengths: the rows of each kernel, int64. members: (C, 4), ones where a column belongs to a matrix, else zeros.
    cells: int64 (rows, C), the number 4 * kernel + matrix of the vector that an entry belongs to. pairs: (C, taps * C),
    the columns of the other side that belong to each column at each tap.
    """

    lengths: Tensor
    members: Tensor
    cells: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, channels: list[int], widths: list[int], pairs: Tensor) -> Side:
        """channels: the rows of each kernel. widths: the columns of each matrix. pairs: (C, taps, C)."""
        kernel = torch.arange(len(channels)).repeat_interleave(torch.tensor(channels))
        matrix = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        members = torch.eye(len(widths), dtype=pairs.dtype)[matrix]
        return cls(torch.tensor(channels), members, 4 * kernel[:, None] + matrix, pairs.flatten(1))

    def spread(self, vectors: Tensor) -> Tensor:
        """Vectors (rows, C) at each tap, in the columns of the other side: (rows * taps, C)."""
        return matmul(vectors, self.pairs).view(-1, self.pairs.shape[0])

    def gathered(self, spread: Tensor) -> Tensor:
        """The adjoint of `spread`: (rows * taps, C) to (rows, C)."""
        return matmul(spread.view(len(self.cells), -1), self.pairs.mT)

    def directions(self, found: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors `found` scaled to norm 1, and their norms (kernels, 4) before that.

        A zero vector, as from a zero kernel, becomes that of `before`.
        """
        squares = matmul(found.square(), self.members)
        norms = torch.segment_reduce(squares, "sum", lengths=self.lengths, unsafe=True).sqrt_()
        of_entries = torch.take(norms, self.cells)
        return torch.where(of_entries == 0, before, found / of_entries), norms


@dataclass(frozen=True)
class Kernels:
    """Weights (groups * o, i, h, w) with the same number of taps, as matrices, and both sides of their vectors.

    sizes: of each layer, a layer with groups having as many kernels. last: whether the matrices are those of weights in
    channels_last format, (o*h*w, i), or contiguous ones, (o, i*h*w); with several groups there are as many of them.
    """

    sizes: list[Size]
    last: bool
    matrices: list[Tensor]
    outputs: Side
    inputs: Side

    @classmethod
    def of(cls, weights: list[Tensor], sizes: list[Size], outputs: Side, inputs: Side) -> Kernels:
        """The matrices are views of the weights if all of these are in the same format."""
        last = not all(weight.is_contiguous() for weight in weights)
        matrices = []
        for weight, (groups, o, i) in zip(weights, sizes, strict=True):
            flat = weight.detach().permute(0, 2, 3, 1) if last else weight.detach()
            shape = (-1, i) if last else (o, -1)
            matrices.append(flat.reshape(shape if groups == 1 else (groups, *shape)))
        return cls(sizes, last, matrices, outputs, inputs)

    def across(self, rows: Tensor) -> Tensor:
        """The transposed matrices times columns of the outputs' side: (outputs, n) to (inputs, n).

        Where there are taps on a side, its rows are those of all taps.
        """
        parts = rows.split([matrix.numel() // matrix.shape[-1] for matrix in self.matrices])
        found = []
        for matrix, part in zip(self.matrices, parts, strict=True):
            product = matmul(part.view(*matrix.shape[:-1], -1).mT, matrix).mT
            found.append(product if matrix.dim() == 2 else product.flatten(0, 1))
        return torch.cat(found)

    def back(self, rows: Tensor) -> Tensor:
        """The matrices times columns of the inputs' side: (inputs, n) to (outputs, n), with rows as in `across`."""
        parts = rows.split([matrix.numel() // matrix.shape[-2] for matrix in self.matrices])
        found = []
        for matrix, part in zip(self.matrices, parts, strict=True):
            columns = part.view(*matrix.shape[:-2], matrix.shape[-1], -1)
            found.append(matmul(matrix, columns).flatten(0, -2))
        return torch.cat(found)

    def to_inputs(self, outputs: Tensor) -> Tensor:
        """The transposed R, S, T and U times vectors (outputs, C), as (inputs, C)."""
        return self.across(self.outputs.spread(outputs)) if self.last else self.inputs.gathered(self.across(outputs))

    def to_outputs(self, inputs: Tensor) -> Tensor:
        """R, S, T and U times vectors (inputs, C), as (outputs, C). Of U, as above, the sides are exchanged."""
        return self.outputs.gathered(self.back(inputs)) if self.last else self.back(self.inputs.spread(inputs))

    def left_of_u(self, right: Tensor) -> Tensor:
        """U times its right vectors (outputs, taps), as (inputs, 1)."""
        if self.last:
            return self.across(right.reshape(-1, 1))
        taps = right.shape[1]
        return self.across(right).view(-1, taps, taps).diagonal(dim1=1, dim2=2).sum(1, keepdim=True)

    def outer_products(self, outputs: Tensor, inputs: Tensor) -> list[Tensor]:
        """The gradients of the weights whose products with the vectors of one side are those of the other."""
        rows = self.outputs.spread(outputs) if self.last else outputs
        columns = (inputs if self.last else self.inputs.spread(inputs)).mT.contiguous()  # as BLAS is fastest
        left = rows.split([matrix.numel() // matrix.shape[-1] for matrix in self.matrices])
        right = columns.split([matrix.numel() // matrix.shape[-2] for matrix in self.matrices], 1)
        found = []
        for matrix, one, other in zip(self.matrices, left, right, strict=True):
            if matrix.dim() == 3:
                one = one.view(*matrix.shape[:-1], -1)
                other = other.view(len(other), len(matrix), -1).transpose(0, 1)
            found.append(matmul(one, other))
        return found


def power_step(kernels: Kernels, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
    """One step of power iteration: new vectors (outputs, C) and (inputs, C), and norms (kernels, 4).

    It starts from the right vectors: those of U on the side of the outputs, the others on that of the inputs. The
    others are used only where a product is zero. Each norm is that of the matrix times a unit vector, and so a lower
    estimate of the matrix's spectral norm.
    """
    width, other = kernels.outputs.pairs.shape
    taps = other // width
    # The left vector of U comes first. It may have any length until all vectors of its side are scaled together.
    left = kernels.left_of_u(outputs[:, -taps:])
    # The left vectors of the others and the right one of U.
    found = kernels.to_outputs(torch.cat([inputs[:, :-1], left], 1))
    outputs, of_outputs = kernels.outputs.directions(found, outputs)
    # The right vectors of the others.
    found = kernels.to_inputs(outputs)
    inputs, of_inputs = kernels.inputs.directions(torch.cat([found[:, :-1], left], 1), inputs)
    of_u = of_outputs[:, 3:] / of_inputs[:, 3:].clamp_min(torch.finfo(left.dtype).tiny)
    return outputs, inputs, torch.cat([of_inputs[:, :3], of_u], 1)


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
            products = kernels.outer_products(outputs * torch.take(chosen, kernels.outputs.cells), inputs)
        gradients = []
        for product, (shape, contiguous) in zip(products, ctx.like, strict=True):
            o, i, h, w = shape
            found = product.view(o, h, w, i).permute(0, 3, 1, 2) if kernels.last else product.view(shape)
            gradients.append(found.contiguous() if contiguous else found)
        return (None, None, None, None, *gradients)
