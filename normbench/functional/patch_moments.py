"""Mean and covariance of an image's patches, the statistics of Network Deconvolution; the gradient is one product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normbench.functional.pairs import Pair

SHORT_ROW = 16  # pixels
SMALL_BLOCK = 128  # rows, below which a product gains nothing from being split


@dataclass(frozen=True)
class Sampling:
    """Which patches of an image are taken, and how their entries are grouped into vectors.

    kernel, padding, dilation: as of the convolution; step: pixels between patches. A 1x1 kernel takes every
    (step * step)-th pixel of the whole batch, in the order of (n, h, w), instead of a grid.
    features: entries of a vector. Entry j of a patch, in the order of (channel, kernel row, kernel column), is feature
    j // G of the vector j % G, G vectors a patch, where groups is 1; else each group of channels has one vector.
    """

    kernel: Pair
    step: Pair
    padding: Pair
    dilation: Pair
    groups: int
    features: int

    def rows(self, x: Tensor, batch_inside: bool) -> Tensor:
        """x (N, C, H, W) -> a fresh (groups, features, M): a row for each entry of the vectors, M of them.

        With entries outermost, the vectors of a patch that share their statistics lie side by side without a copy.
        batch_inside: whether the M vectors are ordered by place and then by image, or the other way round.
        """
        if self.kernel == (1, 1):
            sample, pixel = self.pixels(x)
            return x.flatten(2)[sample, :, pixel].T.contiguous().view(self.groups, self.features, -1)
        image = x.permute(1, 2, 3, 0)
        if batch_inside:
            image = image.contiguous()
        storage = x.new_zeros(self.shape(x, batch_inside))
        taken = storage if batch_inside else storage.movedim(3, -1)
        for i, j, inside, source in self.taps(*x.shape[2:]):
            taken[:, i, j, *inside] = image[:, *source]
        return storage.view(self.groups, self.features, -1)

    def scatter(self, gradient: Tensor, result: Tensor, batch_inside: bool) -> Tensor:
        """The adjoint of `rows`: adds each entry to the pixel of `result`, which is zero, that it was taken from."""
        if self.kernel == (1, 1):
            sample, pixel = self.pixels(result)
            result.view(*result.shape[:2], -1)[sample, :, pixel] = gradient.reshape(result.shape[1], -1).T
            return result
        image = result.permute(1, 2, 3, 0)
        if batch_inside:
            image = image.contiguous()
        taken = gradient.reshape(self.shape(result, batch_inside))
        taken = taken if batch_inside else taken.movedim(3, -1)
        for i, j, inside, source in self.taps(*result.shape[2:]):
            image[:, *source] += taken[:, i, j, *inside]
        return result.copy_(image.permute(3, 0, 1, 2)) if batch_inside else result

    def shape(self, x: Tensor, batch_inside: bool) -> tuple[int, ...]:
        """Channels, kernel rows and columns, and then rows and columns of patches, after or before the batch."""
        n, channels, height, width = x.shape
        size = self.patches(height, 0), self.patches(width, 1)
        return (channels, *self.kernel, *size, n) if batch_inside else (channels, *self.kernel, n, *size)

    def patches(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.step[axis] + 1

    def taps(self, height: int, width: int) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """For each kernel row and column: the patches whose entry there is inside the image, and its pixels."""
        for i in range(self.kernel[0]):
            inside_rows, rows = self.span(height, i, 0)
            for j in range(self.kernel[1]):
                inside_columns, columns = self.span(width, j, 1)
                yield i, j, (inside_rows, inside_columns), (rows, columns)

    def span(self, size: int, tap: int, axis: int) -> tuple[slice, slice]:
        """Along one axis, the patches whose entry `tap` is not padding, and the pixels it falls on."""
        step, offset = self.step[axis], tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(offset // step))  # the first patch with first * step + offset >= 0
        last = min(self.patches(size, axis), (size - 1 - offset) // step + 1)
        last = max(first, last)
        start = first * step + offset
        return slice(first, last), slice(start, start + (last - first - 1) * step + 1 if last > first else start, step)

    def pixels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image and flat pixel index of what a 1x1 kernel takes."""
        n, _, height, width = x.shape
        taken = torch.arange(0, n * height * width, self.step[0] * self.step[1], device=x.device)
        return taken // (height * width), taken % (height * width)


class PatchMoments(torch.autograd.Function):
    """x (N, C, H, W) -> mean (groups, F) and covariance (groups, F, F) of its sampled vectors, over M of them.

    Only the centred vectors are saved. Their gradient needs no correction for the centring: the covariance does not
    change with the mean, to first order, as the centred vectors sum to zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        # Short rows of patches are slow to copy: there the batch is the innermost axis.
        batch_inside = x.shape[3] <= SHORT_ROW and x.is_contiguous()
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        rows = sampling.rows(x, batch_inside)
        mean = rows.mean(2)
        rows -= mean[:, :, None]
        ctx.save_for_backward(rows)
        ctx.sampling, ctx.batch_inside, ctx.shape = sampling, batch_inside, x.shape
        ctx.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return mean, gram(rows) / rows.shape[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        count = rows.shape[2]
        both = (of_covariance + of_covariance.mT) / count
        gradient = torch.baddbmm((of_mean / count)[:, :, None], both, rows)
        result = rows.new_zeros(ctx.shape).to(memory_format=ctx.memory_format)
        return ctx.sampling.scatter(gradient, result, ctx.batch_inside), None


def gram(rows: Tensor) -> Tensor:
    """rows @ rows.mT for (groups, F, M); on a CPU only the lower half of its blocks is multiplied out."""
    half = rows.shape[1] // 2
    if rows.device.type != "cpu" or half < SMALL_BLOCK:
        return rows @ rows.mT
    top, bottom = rows[:, :half], rows[:, half:]
    corner = bottom @ top.mT
    return torch.cat([torch.cat([gram(top), corner.mT], 2), torch.cat([corner, gram(bottom)], 2)], 1)
