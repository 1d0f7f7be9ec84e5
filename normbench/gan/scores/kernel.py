"""KID: the squared maximum mean discrepancy of features with a cubic kernel; Binkowski et al., arXiv 1801.01401.

Its estimate has no bias, so that it needs no covariance and fewer images than the FID. Subsets are drawn as by
torch-fidelity, so that the same images and seed give the same subsets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROWS = 2000  # of a kernel matrix that are in memory at a time


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """The kernel (x y / d + 1)^3 of features (N, d) and (M, d) in float64, (N, M)."""
    products = one @ other.T
    return products.div_(one.shape[1]).add_(1).pow_(3)


def kid(fake: Tensor, real: Tensor, subsets: int, size: int, seed: int) -> tuple[float, float]:
    """The mean and the standard deviation of the unbiased estimates of random subsets, each of `size` images of either.

    fake, real: features, (N, d) and (M, d), with N, M >= size >= 2.

    The sum of a kernel matrix K over the members s of a subset is s^T K s, so all subsets are one product with K,
    which takes a small part of the time of a kernel matrix for each.
    """
    fake, real = fake.double(), real.double()
    drawn = np.random.RandomState(seed)
    members = [torch.zeros(subsets, len(each), dtype=torch.float64) for each in (fake, real)]
    for row in range(subsets):
        for each in members:
            each[row, torch.from_numpy(drawn.choice(each.shape[1], size, replace=False))] = 1
    of_fake, of_real = (each.to(fake.device) for each in members)
    within = _sums(fake, fake, of_fake, of_fake) - of_fake @ _diagonal(fake)
    within += _sums(real, real, of_real, of_real) - of_real @ _diagonal(real)
    between = _sums(fake, real, of_fake, of_real)
    estimates = within / (size * (size - 1)) - 2 * between / size**2
    return estimates.mean().item(), estimates.std(correction=0).item()


def mean_kernel(one: Tensor, other: Tensor, same: bool = False) -> Tensor:
    """The mean kernel of pairs of features (N, d) and (M, d) in float64, 0-d. same: of pairs of different ones of N."""
    total = torch.stack([kernel(rows, other).sum() for rows in one.split(ROWS)]).sum()
    return (total - _diagonal(one).sum()) / (len(one) * (len(one) - 1)) if same else total / (len(one) * len(other))


def subset_size(wanted: int, fake: int, real: int) -> int:
    """The size of a subset: as wanted, or half of the images where there are too few, so that subsets still differ."""
    fewest = min(fake, real)
    return wanted if fewest >= wanted else fewest // 2


def _diagonal(features: Tensor) -> Tensor:
    """The kernel of each of the features (N, d) with itself, (N,)."""
    return features.square().sum(1).div(features.shape[1]).add(1).pow(3)


def _sums(one: Tensor, other: Tensor, of_one: Tensor, of_other: Tensor) -> Tensor:
    """The sums of the kernel over the members of each subset, (S,). of_one, of_other: 0 or 1, (S, N) and (S, M)."""
    found = of_one.new_zeros(len(of_one))
    for rows, chosen in zip(one.split(ROWS), of_one.split(ROWS, dim=1), strict=True):
        found += ((chosen @ kernel(rows, other)) * of_other).sum(1)
    return found
