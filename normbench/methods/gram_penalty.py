"""Gram penalty: batch norm, and a penalty on the norms of convolutions, which a Gram iteration bounds from above.

Delattre, Barthelemy, Araujo and Allauzen, ICML 2023, arXiv 2305.16173. The symbol of a kernel at a frequency is a
matrix A. Its Schatten norm of order 2^(n_iter + 1), the root of the Frobenius norm of G after n_iter times
G <- G^H G from G = A, is an upper bound on its largest singular value; the largest of them over a grid of frequencies
bounds the convolution. The penalty is coefficient times the sum of the bounds that are above `threshold`.

Behaviour of the authors' code, blaisedelattre/lip4conv at 7d11545b: all convolutions, and strides are ignored.

Deviations: the authors' grid has as many points as the feature map, and bounds circular convolutions of maps of that
size alone; it is given the size of the map before a block for all layers of the block. Here the grid has `points`
points a side, and the largest value is divided by two cosines (see `normbench.spectral.grid_bound`): a bound for every
size, and for the zero padding that the networks have. A grouped convolution has the largest bound of its groups. A
frequency at which the kernel vanishes has the bound zero; the authors' code divides by zero there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.products import true_float32
from normbench.functional.tables import table
from normbench.functional.weight_matrices import stacked
from normbench.methods.base import START, Between, Count, Limits, Method, Moment, NotNegative
from normbench.spectral.kernels import polyphase

# After so many squarings the largest eigenvalue of a matrix of Frobenius norm 1 and n rows is at least n^-8, far from
# the least number of float32.
SAFE_SQUARINGS = 4
# Squared norms below this (1e-19 in float32) count as zero, because the squares of these are not in the range.
LEAST = {dtype: math.sqrt(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)}


def waves(height: int, width: int, points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cosines and sines at half of a grid of frequencies and the taps of height x width kernels, (bins, 2, taps).

    The grid has `points` along an axis, twice as many as taps at least, or 1 if there is one tap. The symbol of a real
    kernel is conjugate at opposite frequencies. All is divided by two cosines, so that the largest value on the grid
    bounds all frequencies.
    """
    down, across = (1 if taps == 1 else max(points, 2 * taps) for taps in (height, width))
    rows, columns, s, t = (torch.arange(n, device=device) for n in (height, width, down, across // 2 + 1))
    # Turns are reduced while still integers, because the cosine of a large angle loses digits.
    vertical = (s[:, None] * rows % down).double()[:, None, :, None] / down
    horizontal = (t[:, None] * columns % across).double()[:, None, :] / across
    angles = 2 * math.pi * (vertical + horizontal).flatten(2).flatten(0, 1)
    excess = [math.cos(math.pi * (taps - 1) / 2 / at) for taps, at in ((height, down), (width, across))]
    return (torch.stack([angles.cos(), angles.sin()], 1) / math.prod(excess)).to(dtype)


def log_squared_norms(grams: Tensor, n_iter: int) -> Tensor:
    """The logarithm of the squared Schatten norm of order 2^(n_iter + 1) of matrices A, (N,), from A^H A, (N, n, n)."""
    terms = []
    for done in range(n_iter - 1):
        if done % SAFE_SQUARINGS == 0:
            size = torch.linalg.vector_norm(grams, dim=(1, 2)).clamp_min(LEAST[grams.real.dtype])
            grams = grams / size[:, None, None]
            terms.append((size.log(), 0.5**done))
        grams = torch.bmm(grams, grams)
    terms.append((torch.linalg.vector_norm(grams, dim=(1, 2)).log(), 0.5 ** (n_iter - 1)))
    (total, _), *others = terms  # The first weight is 1.
    for term, weight in others:
        total = total.add(term, alpha=weight)
    return total


class Symbols:
    """The symbols of kernels on a grid of frequencies.

    stack: the kernels, (S, out, kh, kw, in). all: (S, bins, out, in). grams: A A^H or A^H A of each symbol A,
    whichever is smaller, (S * bins, n, n).
    """

    def __init__(self, stack: Tensor, points: int):
        count, outputs, height, width, inputs = self.shape = stack.shape
        self.wide = outputs <= inputs
        self.waves = table(waves, height, width, points, like=stack)
        kernels = stack.flatten(2, 3).flatten(0, 1)
        parts = torch.bmm(self.waves.flatten(0, 1).expand(len(kernels), -1, -1), kernels)
        parts = parts.view(count, outputs, -1, 2, inputs).permute(0, 2, 1, 4, 3)
        self.all = torch.view_as_complex(parts.contiguous())
        self.grams = self.gram(self.all.flatten(0, 1))

    def gram(self, symbols: Tensor) -> Tensor:
        """The smaller Gram matrix of each symbol."""
        return torch.bmm(symbols, symbols.mH) if self.wide else torch.bmm(symbols.mH, symbols)

    def choose(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps each kernel's symbol of the largest norm; returns their Gram matrices (S, n, n) and its logarithm (S,).

        logs: the logarithms of the squared norms of all symbols, (S * bins,).
        """
        largest, self.where = logs.view(len(self.all), -1).max(1)
        self.best = self.all.gather(1, self.where[:, None, None, None].expand(-1, 1, *self.all.shape[2:]))[:, 0]
        return self.gram(self.best), largest

    def slope(self, powers: Tensor) -> Tensor:
        """The gradients of the bounds in the kernels, from powers of the Gram matrices of `choose`."""
        gradient = torch.bmm(powers, self.best) if self.wide else torch.bmm(self.best, powers)
        parts = torch.view_as_real(gradient)
        return torch.bmm(parts.flatten(1, 2), self.waves[self.where]).view(*gradient.shape, -1).mT


@torch.no_grad()
def slopes(stacks: list[tuple[Tensor, int]], points: int, n_iter: int, threshold: float) -> list[Tensor]:
    """The gradients of the bounds of kernels with one lesser number of channels, or 0 where a bound does not count.

    stacks: kernels (layers * groups, out, kh, kw, in) and the number of groups. The result is (S, out, taps, in). A
    layer's bound is the largest of its groups', and counts if it is above the threshold. Where A has norm 1, the
    gradient is A (A^H A)^(2^n_iter - 1).
    """
    with true_float32(stacks[0][0]):
        symbols = [Symbols(stack, points) for stack, _ in stacks]
        logs = log_squared_norms(torch.cat([each.grams for each in symbols]), n_iter)
        parts = logs.split([len(each.grams) for each in symbols])
        chosen = [each.choose(part) for each, part in zip(symbols, parts, strict=True)]
        squares = torch.cat([largest for _, largest in chosen]).exp()
        counts = [len(stack) for stack, _ in stacks]
        counted = functional.threshold(squares.sqrt(), threshold, 0)
        if any(groups > 1 for _, groups in stacks):
            layers = [part.view(-1, groups) for part, (_, groups) in zip(counted.split(counts), stacks, strict=True)]
            counted = torch.cat([(part * (part == part.amax(1, keepdim=True))).flatten() for part in layers])
        squares = squares.clamp_min(LEAST[squares.dtype])
        grams = torch.cat([gram for gram, _ in chosen]) / squares[:, None, None]
        size = grams.shape[1]
        powers = torch.cat([grams, torch.bmm(grams, grams)], 1)
        for _ in range(n_iter - 1):
            powers = torch.bmm(powers, powers[:, size:])
        found = powers[:, :size] * (counted / squares)[:, None, None]
        return [each.slope(part) for each, part in zip(symbols, found.split(counts), strict=True)]


@dataclass(frozen=True)
class GramPenalty(Method):
    """Batch norm, and `coefficient` times the sum of the bounds of convolutions that are above `threshold` in the loss.

    coefficient, threshold, n_iter: those of the authors' code. The bound exceeds the norm by a factor of at most
        n^(2^-(n_iter + 1)), n the lesser number of channels. More than 10 iterations would only add up roundings.
    points: frequencies along each axis, and at least twice the side of the kernel. With 3x3 kernels the bound exceeds
        the supremum over all frequencies by a factor of at most 1.17 with 8 points and 1.04 with 16.
    polyphase: bound a strided convolution by the kernel of its phases, which is tighter than ignoring the stride.
    """

    tunable: ClassVar = {"coefficient": Between(1e-3, 1.0), "threshold": Between(0.5, 4.0)}

    coefficient: NotNegative = 0.1
    threshold: NotNegative = 1.0
    n_iter: Annotated[int, Limits(least=1, below=11)] = 6
    points: Count = 8
    polyphase: bool = False

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        layers: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                # The phases of a dilated kernel are others; ignoring the stride leaves a bound.
                by_phase = self.polyphase and layer.stride[0] > 1 and max(layer.dilation) == 1
                weight = polyphase(layer.weight, layer.stride[0]) if by_phase else layer.weight
                layers[(layer.groups, *weight.shape)].append(weight)
        stacks = [(stacked(some, key[0]), key[0]) for key, some in layers.items()]
        if not stacks:
            return None
        alike: dict[int, list[tuple[Tensor, int]]] = defaultdict(list)
        for stack, groups in stacks:
            alike[min(stack.shape[1], stack.shape[4])].append((stack, groups))
        with torch.autocast(stacks[0][0].device.type, enabled=False):
            found = [
                slope for some in alike.values() for slope in slopes(some, self.points, self.n_iter, self.threshold)
            ]
            kernels = [stack for some in alike.values() for stack, _ in some]
            # A norm is the inner product of the kernel with its gradient.
            product = torch.cat([x.flatten() for x in kernels]) * torch.cat([x.flatten() for x in found])
            return self.coefficient * product.sum()
