"""The patches of images that are sampled for Network Deconvolution, and their mean and covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from normbench.functional import launches
from normbench.functional.joined import Joined
from normbench.functional.pairs import Pair
from normbench.functional.products import addmm
from normbench.functional.symmetric import splits, symmetric_product
from normbench.functional.tables import identity, table


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
    offset: the number of pixels before the first one that a 1x1 kernel takes.

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
    offset: int = 0

    def of_part(self, x: Tensor, batch: Joined) -> tuple[Sampling, int]:
        """The sampling of x (N, C, H, W), a part of a shared batch, and the number of vectors in the whole batch."""
        vectors = 1 if self.groups > 1 else self.parts
        if self.kernel != (1, 1):
            patches = x.shape[0] // batch.count * batch.total
            for axis, size in enumerate(x.shape[2:]):
                patches *= (self.extent(size, axis) - self.reach(axis)) // self.step[axis] + 1
            return self, patches * vectors
        before, whole = (rows * x.shape[2] * x.shape[3] for rows in batch.share(len(x)))
        gap = self.step[0] * self.step[1]
        return replace(self, offset=-before % gap), -(-whole // gap) * vectors

    def centred_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors that are sampled from x (N, C, H, W), without their mean, and the mean (groups, 1, F).

        Both are in float32 or wider. The vectors are a new tensor (groups, M, F).
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        divided = self.divided(self.sampled(x))
        if self.groups > 1 or not launches.count(x):
            rows = self.vectors(divided.to(dtype, memory_format=torch.contiguous_format, copy=True))
            mean = rows.mean(1, keepdim=True)
            rows -= mean
            return rows, mean
        # The mean of patches where they lie: a launch less, but a detour for a CPU.
        divided = divided if self.parts == 1 else self.shuffled(divided)
        mean = divided.mean(tuple(range(divided.dim() - 3)), keepdim=True, dtype=dtype)
        rows = torch.empty(divided.shape, dtype=dtype, device=x.device)
        launches.write(rows, torch.sub, divided, mean)
        return rows.view(1, -1, self.features), mean.view(1, 1, -1)

    def sampled(self, x: Tensor) -> Tensor:
        """The patches that are sampled from x (N, C, H, W): (P, C, 1, 1) or, of a grid, as `patches` returns them."""
        if self.kernel == (1, 1):
            return self.pixels(x)[..., None, None]
        (top, left), (height, width) = self.padding, x.shape[2:]
        bottom, right = self.extent(height, 0) - height - top, self.extent(width, 1) - width - left
        return self.patches(functional.pad(x, (left, right, top, bottom)))

    def add(self, images: Tensor, rows: Tensor) -> None:
        """The adjoint of `rows`: adds entries of rows (groups, M, F) to pixels of images (N, C, H, W), in place."""
        entries = self.entries(rows)
        del rows  # to free memory as large as the images
        if self.kernel == (1, 1):
            self.add_to_pixels(images, entries)
            return
        tiles = self.step == self.kernel and self.dilation == (1, 1)
        (top, left), (count, channels, height, width) = self.padding, images.shape
        size = count, self.extent(height, 0), self.extent(width, 1), channels
        padded = (entries.new_empty(size) if tiles else entries.new_zeros(size)).permute(0, 3, 1, 2)
        places = self.divided(self.patches(padded))
        entries = entries.view(places.shape)
        if all(step >= self.reach(axis) for axis, step in enumerate(self.step)):
            places.copy_(entries)
        else:  # patches overlap, so that they are added one kernel position after the other
            for row in range(self.kernel[0]):
                for column in range(self.kernel[1]):
                    places[..., row, column, :] += entries[..., row, column, :]
        del places, entries
        inside = padded[:, :, top : top + height, left : left + width]
        images[:, :, : inside.shape[2], : inside.shape[3]].add_(inside)

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels (P, C) that a 1x1 kernel samples from images (N, C, H, W)."""
        last = x.permute(0, 2, 3, 1)
        if last.is_contiguous():
            return last.view(-1, x.shape[1])[self.offset :: self.step[0] * self.step[1]]
        return last[self.places(x)]

    def add_to_pixels(self, images: Tensor, entries: Tensor) -> None:
        """The adjoint of `pixels`, of entries as `divided` returns them: adds them to images, in place."""
        last = images.permute(0, 2, 3, 1)
        if last.is_contiguous():
            self.divided(self.pixels(images)[..., None, None]).add_(entries)
        else:
            order = (0, 4, 1, 2, 3) if self.groups == 1 else (0, 1, 4, 2, 3)
            last[self.places(images)] += entries.permute(order).reshape(len(entries), -1)

    def places(self, x: Tensor) -> tuple[Tensor, ...]:
        """The sample, the row and the column of each pixel that a 1x1 kernel samples from images (N, C, H, W)."""
        count, _, height, width = x.shape
        return table(pixels, count, height, width, self.step[0] * self.step[1], self.offset, like=x).unbind()

    def patches(self, images: Tensor) -> Tensor:
        """A view of all patches of images (N, C, H, W) that are padded already: (N, C, rows, columns, kh, kw)."""
        rows, columns = self.dilation
        found = images.unfold(2, self.reach(0), self.step[0]).unfold(3, self.reach(1), self.step[1])
        return found if self.dilation == (1, 1) else found[..., ::rows, ::columns]

    def divided(self, patches: Tensor) -> Tensor:
        """A view of patches, or of a weight, (P, C, ..., kh, kw) in the parts of channels: (P, ..., part, kh, kw, B).

        The parts are channels that are `parts` apart or, with several groups, the groups of neighbouring channels.
        """
        part, of_part = (2, 1) if self.groups == 1 else (1, 2)
        sizes = (self.block, -1) if self.groups == 1 else (-1, self.block)
        divided = patches.unflatten(1, sizes)
        last = divided.dim() - 1
        return divided.permute(0, *range(3, last - 1), part, last - 1, last, of_part)

    def vectors(self, divided: Tensor) -> Tensor:
        """Divided patches as vectors: (groups, P, F) or, with one group, (1, P * G, F)."""
        if self.groups > 1:
            # In memory, M is innermost here: with few features, as in depth-wise layers, products are faster so.
            return (
                divided.reshape(-1, self.groups * self.features).T.contiguous().view(self.groups, self.features, -1).mT
            )
        return self.shuffled(divided).reshape(1, -1, self.features)

    def shuffled(self, divided: Tensor) -> Tensor:
        """Divided patches as vectors (P, G, T, 1, B), with one group; a view if the patches are contiguous."""
        # Entry (a * G + d) * T + t in the order of the method is that of channel a * G + d and kernel position t, and
        # feature a * T + b of vector g, for d * T + t = b * G + g: two ways to divide the same range of numbers.
        return divided.reshape(-1, self.positions, self.parts, 1, self.block).transpose(1, 2)

    def entries(self, vectors: Tensor) -> Tensor:
        """The inverse of `vectors`: (P, part, kh, kw, B)."""
        taps, block, parts = self.positions, self.block, self.parts
        if self.groups > 1:
            columns = vectors.mT.reshape(parts * self.features, -1).T.contiguous()
        else:
            columns = vectors.reshape(-1, parts, taps, block).transpose(1, 2).reshape(-1, parts * self.features)
        return columns.view(-1, parts, *self.kernel, block)

    def weight_rows(self, weight: Tensor) -> Tensor:
        """A weight (out, C/groups, kh, kw) as rows that multiply vectors: (groups, R, F).

        With one group there are R = out * G rows, G for each output, else R = out / groups. The rows of a matrix
        (out, C) are its blocks of F neighbouring features, with R = out * C / F.
        """
        if weight.dim() == 2:
            return weight.view(1, -1, self.features)
        if self.groups == 1 < self.parts and launches.count(weight) and (flat := flattened(weight)) is not None:
            return flat.index_select(1, self.order(order, weight)).view(1, -1, self.features)
        divided = self.divided(weight)
        return divided.reshape(self.groups, -1, self.features) if self.groups > 1 else self.vectors(divided)

    def weight(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of `weight_rows`, in the dtype of the rows. It has the shape and the strides of `like`."""
        if like.dim() == 2:
            return rows.view(like.shape)
        if self.groups == 1 < self.parts:
            if launches.count(rows) and flattened(like) is not None:
                found = rows.view(len(like), -1).index_select(1, self.order(inverse_order, like))
                return found.as_strided(like.shape, like.stride())
            found = torch.empty_like(like, dtype=rows.dtype)
            self.divided(found).copy_(self.entries(rows))
            return found
        found = rows.reshape(-1, *self.kernel, self.block).permute(0, 3, 1, 2)
        if found.stride() == like.stride():
            return found
        # The strides of a dimension of one element mean nothing, but optimizers compare them.
        if all(size == 1 or a == b for size, a, b in zip(like.shape, found.stride(), like.stride(), strict=True)):
            return found.as_strided(like.shape, like.stride())
        return torch.empty_like(like, dtype=rows.dtype).copy_(found)

    def order(self, make: Callable[..., Tensor], weight: Tensor) -> Tensor:
        """The table `order`, or `inverse_order`, of a weight."""
        return table(make, self.positions, self.parts, self.block, int(weight.is_contiguous()), like=weight)

    def ordered(self, statistic: Tensor, dimensions: int) -> Tensor:
        """A statistic with its last `dimensions` over features in the order of the method, in the order used here."""
        return swapped(statistic, dimensions, self.block, self.positions).reshape(statistic.shape)

    def move(self, running: Tensor, now: Tensor, momentum: float) -> None:
        """Moves a running average, in the order of the method, towards a statistic in the order used here.

        running: (groups * F,) or (F, F) or (groups, F, F), now: (groups, 1, F) or (groups, F, F).
        """
        dimensions = 1 if running.dim() == 1 else 2
        view = swapped(now, dimensions, self.positions, self.block)
        running.view(view.shape).lerp_(view.to(running), momentum)

    @property
    def positions(self) -> int:
        """T, the number of kernel positions."""
        return self.kernel[0] * self.kernel[1]

    @property
    def block(self) -> int:
        """B, the number of channels in a vector."""
        return self.features // self.positions

    def extent(self, size: int, axis: int) -> int:
        """The pixels from the first to the last of all patches along an axis (0 for rows, 1 for columns) of `size`."""
        rest = size + 2 * self.padding[axis] - self.reach(axis)
        return rest // self.step[axis] * self.step[axis] + self.reach(axis)

    def reach(self, axis: int) -> int:
        """The pixels that a patch spans along an axis, dilation included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


def pixels(
    count: int, height: int, width: int, gap: int, offset: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The sample, row and column of every gap-th pixel from `offset` on, in the order (n, h, w): int64 (3, P)."""
    taken = torch.arange(min(offset, count * height * width), count * height * width, gap, device=device)
    pixel = taken % (height * width)
    return torch.stack([taken // (height * width), pixel // width, pixel % width])


def flattened(weight: Tensor) -> Tensor | None:
    """A view (out, C * kh * kw) of a weight (out, C, kh, kw) in its order in memory, or None if that has gaps."""
    if weight.is_contiguous():
        return weight.flatten(1)
    last = weight.permute(0, 2, 3, 1)
    return last.flatten(1) if last.is_contiguous() else None


def order(taps: int, parts: int, block: int, contiguous: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where each entry of the vectors of an output, (G, T, B), is in its part of a weight: int64 (G * T * B,).

    contiguous: 1 for a weight whose channels are outermost in memory, 0 for one where they are innermost.
    """
    place = torch.arange(taps * parts * block, device=device)
    channels = place.view(block, parts, taps) if contiguous else place.view(taps, block, parts).permute(1, 2, 0)
    return channels.reshape(block, taps, parts).permute(2, 1, 0).flatten()


def inverse_order(
    taps: int, parts: int, block: int, contiguous: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Where each entry of the part of a weight that belongs to an output is among the entries of its vectors."""
    place = torch.arange(taps * parts * block, device=device)
    channels = place.view(parts, taps, block).permute(2, 1, 0).reshape(block, parts, taps)
    return channels.flatten() if contiguous else channels.permute(2, 0, 1).flatten()


def swapped(x: Tensor, dimensions: int, outer: int, inner: int) -> Tensor:
    """A view of x (..., F) with element i * inner + j of each of its last dimensions at (j, i) of two dimensions.

    dimensions: how many dimensions are meant. outer * inner = F.
    """
    view = x.view(*x.shape[:-dimensions], *(outer, inner) * dimensions)
    for axis in range(dimensions):
        view = view.transpose(-2 * axis - 1, -2 * axis - 2)
    return view


def covariance(rows: Tensor, eps: float) -> Tensor:
    """The mean products rows.mT @ rows, (groups, F, F), of rows (groups, M, F), with eps added to their diagonals.

    Those of bfloat16 rows are in float32.
    """
    low = rows.dtype == torch.bfloat16
    if low and rows.device.type != "cuda":
        return covariance(rows.float(), eps)
    if low or splits(rows.mT):
        product = torch.bmm(rows.mT, rows, out_dtype=torch.float32) if low else symmetric_product(rows.mT, rows.mT)
        product.div_(rows.shape[1]).diagonal(dim1=-2, dim2=-1).add_(eps)
        return product
    return addmm(table(identity, rows.shape[-1], like=rows), rows.mT, rows, eps, 1 / rows.shape[1])
