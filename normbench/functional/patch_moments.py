"""Mean and covariance of the patches of images, the statistics of Network Deconvolution, with an efficient gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normbench.functional.pairs import Pair

SHORT_ROW = 16  # pixels in the rows of an image, up to which copying by row is slow
SMALL_BLOCK = 128  # rows of a block, below which splitting a product does not pay off


@dataclass(frozen=True)
class Sampling:
    """Which patches of an image are sampled, and how their entries are grouped into vectors.

    kernel, padding, dilation: those of the convolution. step: pixels between neighbouring patches, along rows and
        columns. A 1x1 kernel is different: it takes every (step[0] * step[1])-th pixel of the whole batch in the order
        (n, h, w) instead of a grid.
    groups: groups of channels with statistics of their own.
    features: F, the entries of a vector. With one group, a patch is split into G vectors: its entry j, in the order
        (channel, kernel row, kernel column), is feature j // G of vector j % G. With several groups, the part of a
        patch in one group of channels is one vector.
    """

    kernel: Pair
    step: Pair
    padding: Pair
    dilation: Pair
    groups: int
    features: int

    def rows(self, x: Tensor, batch_inside: bool) -> Tensor:
        """The sampled vectors of x (N, C, H, W), as the columns of a new tensor (groups, features, M).

        With this order of dimensions, all vectors that share statistics are adjacent without a further copy.
        batch_inside: whether the M vectors are ordered by position and then by image, or the other way round.
        """
        if self.kernel == (1, 1):
            sample, pixel = self.pixels(x)
            return x.flatten(2)[sample, :, pixel].T.contiguous().view(self.groups, self.features, -1)
        shape = self.shape(x.shape, batch_inside)
        if x.is_contiguous() and not batch_inside:
            padded = functional.pad(x, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
            batch, channel, row, column = padded.stride()
            taps = (self.dilation[0] * row, self.dilation[1] * column)
            strides = (channel, *taps, batch, self.step[0] * row, self.step[1] * column)
            return padded.as_strided(shape, strides).contiguous().view(self.groups, self.features, -1)
        image = x.permute(1, 2, 3, 0)
        if batch_inside:
            image = image.contiguous()
        storage = x.new_zeros(shape)
        taken = storage if batch_inside else storage.movedim(3, -1)
        for i, j, inside, source in self.taps(*x.shape[2:]):
            taken[:, i, j, *inside] = image[:, *source]
        return storage.view(self.groups, self.features, -1)

    def scatter(self, gradient: Tensor, size: Sequence[int], batch_inside: bool, channels_last: bool) -> Tensor:
        """The adjoint of `rows`: adds each entry of a gradient (groups, features, M) to the pixel that it came from.

        size: (N, C, H, W), the shape of the result. channels_last: the memory format of the result, if not contiguous.
        """
        n, channels, height, width = size
        if self.kernel == (1, 1):
            result = zeros(gradient, size, channels_last)
            sample, pixel = self.pixels(result)
            result.view(n, channels, -1)[sample, :, pixel] = gradient.reshape(channels, -1).T
            return result
        taken = gradient.reshape(self.shape(size, batch_inside))
        tiled = self.kernel == self.step and self.dilation == (1, 1) and not batch_inside and not channels_last
        whole = taken.shape[4] * self.step[0], taken.shape[5] * self.step[1]
        first, last = self.padding, (self.padding[0] + height, self.padding[1] + width)
        if tiled and whole[0] >= last[0] and whole[1] >= last[1]:  # each pixel is in exactly one patch
            tiles = taken.permute(3, 0, 4, 1, 5, 2).reshape(n, channels, *whole)
            return tiles[:, :, first[0] : last[0], first[1] : last[1]]
        if batch_inside:
            image = gradient.new_zeros(channels, height, width, n)
        else:
            image = zeros(gradient, size, channels_last).permute(1, 2, 3, 0)
        taken = taken if batch_inside else taken.movedim(3, -1)
        apart = all(self.step[axis] >= self.reach(axis) for axis in (0, 1))
        for i, j, inside, source in self.taps(height, width):
            if apart:  # no pixel is in more than one patch
                image[:, *source] = taken[:, i, j, *inside]
            else:
                image[:, *source] += taken[:, i, j, *inside]
        del gradient, taken  # to free memory as large as the images
        return image.permute(3, 0, 1, 2).contiguous() if batch_inside else image.permute(3, 0, 1, 2)

    def shape(self, size: Sequence[int], batch_inside: bool) -> tuple[int, ...]:
        """Shape of all patches: (C, kh, kw, rows, columns, N) if `batch_inside`, else (C, kh, kw, N, rows, columns).

        size: (N, C, H, W), the shape of the images. rows, columns: those of the grid of patches.
        """
        n, channels, height, width = size
        places = self.patches(height, 0), self.patches(width, 1)
        return (channels, *self.kernel, *places, n) if batch_inside else (channels, *self.kernel, n, *places)

    def patches(self, size: int, axis: int) -> int:
        """The number of patches along an axis (0 for rows, 1 for columns) of `size` pixels."""
        return (size + 2 * self.padding[axis] - self.reach(axis)) // self.step[axis] + 1

    def reach(self, axis: int) -> int:
        """The pixels that a patch spans along an axis, dilation included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def taps(self, height: int, width: int) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """Yields (i, j, patches, pixels) for each kernel row i and column j.

        patches: the patches whose entry (i, j) is inside the image, as slices of rows and of columns in the grid of
        patches. pixels: the pixels on which those entries fall, as slices of rows and of columns in the image.
        """
        for i in range(self.kernel[0]):
            inside_rows, rows = self.span(height, i, 0)
            for j in range(self.kernel[1]):
                inside_columns, columns = self.span(width, j, 1)
                yield i, j, (inside_rows, inside_columns), (rows, columns)

    def span(self, size: int, tap: int, axis: int) -> tuple[slice, slice]:
        """Along one axis, the patches whose entry `tap` is inside the image, and the pixels on which it falls."""
        step, offset = self.step[axis], tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(offset // step))  # the first patch with first * step + offset >= 0
        last = min(self.patches(size, axis), (size - 1 - offset) // step + 1)
        last = max(first, last)
        start = first * step + offset
        return slice(first, last), slice(start, start + (last - first - 1) * step + 1 if last > first else start, step)

    def pixels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The indices of the image and of the flattened pixel, int64 (M,) each, that a 1x1 kernel samples from x."""
        n, _, height, width = x.shape
        taken = torch.arange(0, n * height * width, self.step[0] * self.step[1], device=x.device)
        return taken // (height * width), taken % (height * width)


class PatchMoments(torch.autograd.Function):
    """Mean and (biased) covariance of the vectors that are sampled from images.

    Only the centred vectors are saved for the backward pass. The gradient needs no correction for the centring: to
    first order the covariance does not depend on the mean, because the centred vectors sum to zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sampling: Sampling, low_precision: bool) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) -> mean (groups, F), covariance (groups, F, F).

        low_precision: round the centred vectors to bfloat16 for the covariance, an approximation. Products are still
        summed in float32.
        """
        # Short rows of patches are slow to copy; with them, the batch is made the innermost axis.
        batch_inside = x.shape[3] <= SHORT_ROW and x.is_contiguous()
        rows = sampling.rows(x, batch_inside)
        mean = rows.mean(2)
        rows -= mean[:, :, None]
        if low_precision:
            rows = rows.to(torch.bfloat16)
        ctx.save_for_backward(rows)
        ctx.sampling, ctx.batch_inside, ctx.size = sampling, batch_inside, x.shape
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return mean, gram(rows).to(mean.dtype) / rows.shape[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        count = rows.shape[2]
        both = (of_covariance + of_covariance.mT) / count
        return (
            ctx.sampling.scatter(
                torch.baddbmm((of_mean / count)[:, :, None], both, rows.to(both.dtype)),
                ctx.size,
                ctx.batch_inside,
                ctx.channels_last,
            ),
            None,
            None,
        )


def gram(rows: Tensor) -> Tensor:
    """The Gram matrices rows @ rows.mT, (groups, F, F), of rows (groups, F, M). bfloat16 rows give float32 results.

    On a CPU, only the lower triangle of blocks is computed, by recursion; the rest follows by symmetry.
    """
    if rows.dtype == torch.bfloat16:
        if rows.device.type == "cuda":
            return torch.bmm(rows, rows.mT, out_dtype=torch.float32)
        rows = rows.float()
    half = rows.shape[1] // 2
    if rows.device.type != "cpu" or half < SMALL_BLOCK:
        return rows @ rows.mT
    top, bottom = rows[:, :half], rows[:, half:]
    corner = bottom @ top.mT
    return torch.cat([torch.cat([gram(top), corner.mT], 2), torch.cat([corner, gram(bottom)], 2)], 1)


def zeros(like: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    """Zeros of a size (N, C, H, W), in a memory format, with the dtype and on the device of `like`."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format).zero_()
