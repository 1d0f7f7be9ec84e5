"""Mean and covariance of the patches of images, the statistics of Network Deconvolution, with an efficient gradient."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normbench.functional.pairs import Pair
from normbench.functional.symmetric import symmetric_product


@dataclass(frozen=True)
class Sampling:
    """Which patches of an image are sampled, and how their entries are grouped into vectors.

    kernel, padding, dilation: those of the convolution. step: pixels between neighbouring patches, along rows and
        columns. A 1x1 kernel is different: it takes every (step[0] * step[1])-th pixel of the whole batch in the order
        (n, h, w) instead of a grid.
    groups: groups of channels with statistics of their own.
    features: F, the entries of a vector.
    parts: G, the vectors of a patch. With one group, entry j of a patch, in the order (channel, kernel row, kernel
        column), is feature j // G of vector j % G. With several groups, the part of a patch in one group of channels is
        one vector, and G is the number of groups.

    The order of features is another here: feature a * T + b, where T is the number of kernel positions, has the place
    b * B + a, with B = F / T. Neighbouring features then come from pixels, and from weights, that are neighbours in
    channels_last format.
    """

    kernel: Pair
    step: Pair
    padding: Pair
    dilation: Pair
    groups: int
    features: int
    parts: int = 1

    def rows(self, x: Tensor) -> Tensor:
        """The vectors that are sampled from x (N, C, H, W), in float32 or wider, as a new tensor (groups, M, F)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.kernel == (1, 1):
            return self.vectors(x.to(dtype)[self.pixels(x)])
        places = self.patches(x.shape[2], 0), self.patches(x.shape[3], 1)
        patches, image = x.new_zeros(len(x), *places, self.positions, x.shape[1], dtype=dtype), x.permute(0, 2, 3, 1)
        for tap, inside, source in taps(self, *x.shape[2:]):
            patches[:, *inside, tap] = image[:, *source]
        return self.vectors(patches.view(-1, self.positions * x.shape[1]))

    def add(self, images: Tensor, rows: Tensor) -> None:
        """The adjoint of `rows`: adds entries of rows (groups, M, F) to pixels of images (N, C, H, W), in place."""
        entries = self.entries(rows)
        if self.kernel == (1, 1):
            images[self.pixels(images)] += entries.to(images.dtype)
            return
        places = self.patches(images.shape[2], 0), self.patches(images.shape[3], 1)
        patches, image = entries.view(len(images), *places, self.positions, -1), images.permute(0, 2, 3, 1)
        for tap, inside, source in taps(self, *images.shape[2:]):
            image[:, *source] += patches[:, *inside, tap]

    def vectors(self, patches: Tensor) -> Tensor:
        """Patches (P, T * C), the channels innermost, as vectors: (groups, P, F) or, with one group, (1, P * G, F)."""
        taps, block, parts = self.positions, self.block, self.parts
        if self.groups > 1:
            # In memory, M is innermost here: with few features, as in depth-wise layers, products are faster so.
            columns = patches.T.contiguous().view(taps, parts, block, -1).transpose(0, 1)
            return columns.reshape(parts, self.features, -1).mT
        # Entry (a * G + d) * T + t in the order of the method is that of channel a * G + d and kernel position t, and
        # feature a * T + b of vector g, for d * T + t = b * G + g: two ways to divide the same range of numbers.
        divided = patches.unflatten(1, (taps, block, parts)).permute(0, 3, 1, 2).reshape(-1, taps, parts, block)
        return divided.transpose(1, 2).reshape(1, -1, self.features)

    def entries(self, vectors: Tensor) -> Tensor:
        """The inverse of `vectors`."""
        taps, block, parts = self.positions, self.block, self.parts
        if self.groups > 1:
            columns = vectors.mT.unflatten(1, (taps, block)).transpose(0, 1)
            return columns.reshape(taps * parts * block, -1).T.contiguous()
        divided = vectors.view(-1, parts, taps, block).transpose(1, 2).reshape(-1, parts, taps, block)
        return divided.permute(0, 2, 3, 1).reshape(len(divided), -1)

    def weight_rows(self, weight: Tensor) -> Tensor:
        """A weight (out, C/groups, kh, kw) as rows that multiply vectors: (groups, R, F).

        With one group there are R = out * G rows, G for each output, else R = out / groups.
        """
        taps = weight.permute(0, 2, 3, 1)
        return taps.reshape(self.groups, -1, self.features) if self.groups > 1 else self.vectors(taps.flatten(1))

    def weight(self, rows: Tensor) -> Tensor:
        """The inverse of `weight_rows`."""
        taps = rows.reshape(-1, self.features) if self.groups > 1 else self.entries(rows)
        return taps.view(len(taps), *self.kernel, -1).permute(0, 3, 1, 2)

    def ordered(self, statistic: Tensor, dimensions: int) -> Tensor:
        """A statistic with its last `dimensions` over features in the order of the method, in the order used here."""
        return swapped(statistic, dimensions, self.block, self.positions)

    def unordered(self, statistic: Tensor, dimensions: int) -> Tensor:
        """The inverse of `ordered`."""
        return swapped(statistic, dimensions, self.positions, self.block)

    @property
    def positions(self) -> int:
        """T, the number of kernel positions."""
        return self.kernel[0] * self.kernel[1]

    @property
    def block(self) -> int:
        """B, the number of channels in a vector."""
        return self.features // self.positions

    def patches(self, size: int, axis: int) -> int:
        """The number of patches along an axis (0 for rows, 1 for columns) of `size` pixels."""
        return (size + 2 * self.padding[axis] - self.reach(axis)) // self.step[axis] + 1

    def reach(self, axis: int) -> int:
        """The pixels that a patch spans along an axis, dilation included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def span(self, size: int, tap: int, axis: int) -> tuple[slice, slice]:
        """Along one axis, the patches whose entry `tap` is inside the image, and the pixels on which it falls."""
        step, offset = self.step[axis], tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(offset // step))  # the first patch with first * step + offset >= 0
        last = min(self.patches(size, axis), (size - 1 - offset) // step + 1)
        last = max(first, last)
        start = first * step + offset
        return slice(first, last), slice(start, start + (last - first - 1) * step + 1 if last > first else start, step)

    def pixels(self, x: Tensor) -> tuple[Tensor, slice, Tensor, Tensor]:
        """The index, into images (N, C, H, W), of the M pixels that a 1x1 kernel samples; it selects (M, C)."""
        n, _, height, width = x.shape
        taken = torch.arange(0, n * height * width, self.step[0] * self.step[1], device=x.device)
        sample, pixel = taken // (height * width), taken % (height * width)
        return sample, slice(None), pixel // width, pixel % width


@functools.cache
def taps(
    sampling: Sampling, height: int, width: int
) -> tuple[tuple[int, tuple[slice, slice], tuple[slice, slice]], ...]:
    """(kernel position, patches, pixels) for each kernel position, row by row, in images of a size.

    patches: the patches whose entry there is inside the image, as slices of rows and of columns in the grid of patches.
    pixels: the pixels on which those entries fall, as slices of rows and of columns in the image.
    """
    found = []
    for tap in range(sampling.positions):
        inside_rows, rows = sampling.span(height, tap // sampling.kernel[1], 0)
        inside_columns, columns = sampling.span(width, tap % sampling.kernel[1], 1)
        found.append((tap, (inside_rows, inside_columns), (rows, columns)))
    return tuple(found)


def swapped(x: Tensor, dimensions: int, outer: int, inner: int) -> Tensor:
    """x (..., F) with element i * inner + j of each of its last dimensions moved to j * outer + i.

    dimensions: how many dimensions are meant. outer * inner = F.
    """
    split = x.view(*x.shape[:-dimensions], *(outer, inner) * dimensions)
    for axis in range(dimensions):
        split = split.transpose(-2 * axis - 1, -2 * axis - 2)
    return split.reshape(x.shape)


class PatchMoments(torch.autograd.Function):
    """Mean and (biased) covariance of the vectors that are sampled from images.

    The images are returned as well. The caller computes with these and not with x, so that the gradient of the moments
    can be added, in place, to the gradient of what the caller computes. Only the centred vectors are saved for the
    backward pass. The gradient needs no correction for the centring: to first order the covariance does not depend on
    the mean, because the centred vectors sum to zero. The gradient that arrives for the covariance must be symmetric.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sampling: Sampling, eps: float, low_precision: bool) -> tuple[Tensor, ...]:
        """x (N, C, H, W) -> x, mean (groups, F), covariance (groups, F, F), to whose diagonal `eps` is added.

        The moments of images in half precision are in float32. low_precision: round the centred vectors to bfloat16 for
        the covariance, an approximation. Products are still summed in float32.
        """
        rows = sampling.rows(x)
        mean = rows.mean(1)
        rows -= mean[:, None]
        if low_precision:
            rows = rows.to(torch.bfloat16)
        covariance = gram(rows).div_(rows.shape[1])
        covariance.diagonal(dim1=-2, dim2=-1).add_(eps)
        # The gradient of images in bfloat16 is in bfloat16, and so are the factors of its products.
        ctx.save_for_backward(rows if low_precision else rows.to(x.dtype))
        ctx.sampling = sampling
        return x, mean, covariance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_mean: Tensor, of_covariance: Tensor) -> tuple[Tensor, None, None, None]:
        rows = ctx.saved_tensors[0].to(of_x.dtype)
        twice = (of_covariance * (2 / rows.shape[1])).to(rows.dtype)
        shift = (of_mean / rows.shape[1]).to(rows.dtype)
        if rows.is_contiguous():
            of_rows = torch.baddbmm(shift[:, None], rows, twice)
        else:
            of_rows = torch.baddbmm(shift[:, :, None], twice, rows.mT).mT
        ctx.sampling.add(of_x, of_rows)
        return of_x, None, None, None


def gram(rows: Tensor) -> Tensor:
    """The Gram matrices rows.mT @ rows, (groups, F, F), of rows (groups, M, F). bfloat16 rows give float32 results."""
    if rows.dtype == torch.bfloat16:
        if rows.device.type == "cuda":
            return torch.bmm(rows.mT, rows, out_dtype=torch.float32)
        rows = rows.float()
    return symmetric_product(rows.mT, rows.mT)
