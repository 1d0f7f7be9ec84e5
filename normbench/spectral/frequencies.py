"""Norms of convolutions from the kernel's symbol: one matrix for each frequency.

The symbol of a kernel L (out, in, kh, kw) is A(s, t) = sum over taps p, q of L[:, :, p, q] exp(i(ps + qt)), an
out x in matrix. A circular convolution of n x m images is block-diagonal in the Fourier basis, its blocks the symbol at
the multiples of 2 pi/n and 2 pi/m (Sedghi, Gupta and Long, ICLR 2019, arXiv 1805.10408). The supremum of the symbol's
norm over all frequencies bounds the norm of the convolution for every padding, image size and stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from normbench.spectral import kernels as stacks
from normbench.spectral.kernels import by_group, largest_singular_value, smaller_gram

# Entries of symbols at a time. On a CPU they and their Gram matrices stay in the cache; a GPU has enough to do at once,
# and needs half a gigabyte for them.
CHUNK, CHUNK_ON_CUDA = 2**17, 2**23


def phases(kernels: Tensor, height: int, width: int, dilation: tuple[int, int] = (1, 1)) -> Tensor:
    """exp(i(ps + qt)) at the frequencies of a height x width grid and the taps of the kernels, (bins, kh, kw).

    Half of the grid is enough, as the symbol of a real kernel is conjugate at opposite frequencies. dilation: rows and
    columns between neighbouring taps.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} x {width} frequencies: both numbers must be at least 1")
    rows, columns, down, across = (
        torch.arange(count, dtype=torch.float64, device=kernels.device)
        for count in (*kernels.shape[-2:], height, width // 2 + 1)
    )
    rows, columns = rows * dilation[0], columns * dilation[1]
    turns = (down[:, None, None, None] * rows[:, None] / height) + (across[:, None, None] * columns / width)
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns).flatten(0, 1)


def symbols(kernels: Tensor, height: int, width: int, dilation: tuple[int, int] = (1, 1)) -> Iterator[Tensor]:
    """Yields the symbols of kernels (groups, out, in, kh, kw), as many at a time as fit: (bins, groups, out, in).

    They are those of half of a height x width grid in the order of `phases`, which has `dilation` too.
    """
    taps = kernels.to(torch.complex128)
    some = max(1, (CHUNK_ON_CUDA if stacks.keeps_going(kernels) else CHUNK) // kernels[..., 0, 0].numel())
    for grid in phases(kernels, height, width, dilation).split(some):
        yield torch.einsum("bpq,goipq->bgoi", grid, taps)


def highest(
    symbols: Iterable[Tensor], norms: Callable[[Tensor, Tensor], Tensor], groups: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The largest norm (groups,) of symbols, float64, and where it is, counted over the bins; for no gradient.

    symbols: some bins at a time, (bins, groups, out, in). norms: from symbols and a threshold (groups,) to the norms
    (bins, groups); those below the threshold may be anything below it.
    """
    best = torch.zeros(groups, dtype=torch.float64, device=device)
    where = torch.zeros_like(best, dtype=torch.long)
    first = 0
    for some in symbols:
        largest, index = norms(some, best).max(0)
        where = torch.where(largest > best, first + index, where)
        best = torch.maximum(best, largest)
        first += len(some)
    return best, where


def peaks(kernels: Tensor, height: int, width: int, norms: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Each group's symbol (groups, out, in) of largest norm on a grid of frequencies.

    norms: see `highest`. Differentiable in the kernels (groups, out, in, kh, kw).
    """
    with torch.no_grad():
        _, where = highest(symbols(kernels, height, width), norms, len(kernels), kernels.device)
    grid = phases(kernels, height, width)[where]
    return torch.einsum("gpq,goipq->goi", grid, kernels.to(torch.complex128))


def singular_values_above(symbols: Tensor, threshold: Tensor) -> Tensor:
    """The largest singular value (bins, groups) of each symbol, or 0 if it is not above the threshold.

    symbols: (bins, groups, out, in). threshold: (groups,). If out or in is 1, and on CUDA, no value is set to 0.
    """
    if min(symbols.shape[-2:]) == 1 or stacks.keeps_going(symbols):  # To choose symbols, the host would have to wait.
        return largest_singular_value(symbols)
    gram = smaller_gram(symbols)
    # threshold^2 - Gram has a Cholesky factor unless a singular value is above: a fifth of the cost of eigenvalues.
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    above = torch.linalg.cholesky_ex(threshold.square()[:, None, None] * eye - gram).info > 0
    values = torch.zeros_like(above, dtype=torch.float64)
    values[above] = torch.linalg.eigvalsh(gram[above])[..., -1].clamp_min(0).sqrt()
    return values


def grid_norms(kernels: Tensor, height: int, width: int) -> Tensor:
    """The largest singular value (groups,) of the symbol on a grid of frequencies."""
    return largest_singular_value(peaks(kernels, height, width, singular_values_above))


def supremum_bounds(kernels: Tensor, height: int, width: int) -> Tensor:
    """Upper bounds (groups,) on the supremum over all frequencies, from a height x width grid of them.

    A trigonometric polynomial with frequencies in [-d, d] that is largest at x is at least cos(d y) times as large at
    x + y (M. Riesz). No point is farther than pi/n from a grid of n: the supremum along one axis is at most
    1/cos(pi d/n) times the largest value on the grid, d = (k - 1)/2, and one axis after the other gives the product.
    """
    lowest = [
        math.cos(math.pi * (taps - 1) / 2 / points)
        for taps, points in zip(kernels.shape[-2:], (height, width), strict=True)
    ]
    return grid_norms(kernels, height, width) / math.prod(lowest)


def gram_iteration(symbols: Tensor, iterations: int) -> Tensor:
    """An upper bound on the largest singular value of each symbol: its Schatten norm of order 2^(iterations+1).

    Delattre, Barthelemy, Araujo and Allauzen, ICML 2023, arXiv 2305.16173: the Frobenius norm of G after t times
    G <- G^H G, to the power 2^-t.
    """
    if symbols.shape[-2] < symbols.shape[-1]:
        symbols = symbols.mH
    logarithm = torch.zeros(symbols.shape[:-2], dtype=torch.float64, device=symbols.device)
    for _ in range(iterations):
        # Any positive scale will do, and the result does not depend on it: it is a constant of the gradient.
        scale = symbols.detach().abs().amax((-2, -1))
        scale = torch.where(scale > 0, scale, 1)
        symbols = symbols / scale[..., None, None]
        symbols, logarithm = symbols.mH @ symbols, 2 * (logarithm + scale.log())
    frobenius = torch.linalg.vector_norm(symbols, dim=(-2, -1))
    # The power has an infinite slope at zero: there the base is replaced, and the result put back.
    zero = frobenius == 0
    power = torch.where(zero, 1, frobenius).pow(2**-iterations)
    return torch.where(zero, 0, power) * (logarithm * 2**-iterations).exp()


def grid_bound(weight: Tensor, points: int = 16, *, groups: int = 1) -> Tensor:
    """Upper bound on the norm of the convolution: the largest norm on points x points frequencies, over two cosines.

    weight: (out, in/groups, kh, kw), or (out, in). Valid for circular and zero padding of every size, every image
    size, stride and dilation. It exceeds the supremum over all frequencies by a factor of at most
    1/(cos(pi (kh-1)/(2 points)) cos(pi (kw-1)/(2 points))): for 3x3 kernels 1.17, 1.07 and 1.04 at 8, 12 and 16 points.
    The gradient goes through one frequency. Raises ValueError unless points > max(kh, kw) - 1.
    """
    kernels = by_group(weight, groups)
    if points <= max(kernels.shape[-2:]) - 1:
        height, width = kernels.shape[-2:]
        raise ValueError(f"{points} points do not bound a {height}x{width} kernel: at least {max(height, width)} do")
    return supremum_bounds(kernels, points, points).max(0).values.to(weight)


def exact_norm(weight: Tensor, size: int | tuple[int, int], *, groups: int = 1) -> Tensor:
    """Exact norm of the convolution with circular padding and stride 1 on size x size images (or height, width).

    weight: (out, in/groups, kh, kw), or (out, in). A kernel larger than the image is wrapped around it, as circular
    padding does. Neither a bound for other sizes nor for zero padding, where the norm can be larger or smaller. The
    gradient goes through one frequency. Sedghi, Gupta and Long, arXiv 1805.10408.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return grid_norms(by_group(weight, groups), height, width).max(0).values.to(weight)


def gram_bound(weight: Tensor, size: int | tuple[int, int], iterations: int = 6, *, groups: int = 1) -> Tensor:
    """Upper bound on `exact_norm` at this size: for circular padding and stride 1 on size x size images alone.

    weight: (out, in/groups, kh, kw), or (out, in); wrapped around a smaller image. The factor is at most
    n^(1/2^(iterations+1)), n the lesser number of channels, and all but 1 in practice. No eigenvalues: products of
    matrices only. The gradient goes through one frequency. Delattre et al., arXiv 2305.16173.
    """
    height, width = (size, size) if isinstance(size, int) else size
    symbols = peaks(by_group(weight, groups), height, width, lambda some, _: gram_iteration(some, iterations))
    return gram_iteration(symbols, iterations).max(0).values.to(weight)
