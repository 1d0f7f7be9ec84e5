"""Precision and recall, density and coverage: where images lie among the nearest neighbours of others.

Precision and recall are those of Kynkaanniemi et al., arXiv 1904.06991; density and coverage are those of Naeem et al.,
arXiv 2002.09797, which one outlier does not change. A ball is around an image and reaches to its k-th nearest neighbour
of the same kind. As in the authors' code, its surface belongs to it for precision and recall alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 2000  # of a matrix of distances that are in memory at a time


@dataclass(frozen=True)
class Neighbours:
    """precision, recall, coverage: fractions. density: 0 or more, 1 on average for images of the same distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(fake: Tensor, real: Tensor, near: int, dense: int) -> Neighbours:
    """Returns the four numbers of features, (N, d) and (M, d).

    near: k of precision and recall. dense: k of density and coverage. N > near, and M > near and dense.
    """
    fake, real = fake.double(), real.double()
    of_fake = radii(fake, near)
    of_real = radii(real, max(near, dense))
    around_real, dense_real = of_real[:, near - 1], of_real[:, dense - 1]
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled, inside = 0.0, 0.0
    covered = 0.0
    for rows, wide, narrow in zip(real.split(ROWS), around_real.split(ROWS), dense_real.split(ROWS), strict=True):
        apart = squares(rows, fake)
        precise |= (apart <= wide[:, None]).any(0)
        recalled += (apart <= of_fake[:, near - 1]).any(1).sum().item()
        inside += (apart < narrow[:, None]).sum().item()
        covered += (apart.amin(1) < narrow).sum().item()
    return Neighbours(
        precision=precise.double().mean().item(),
        recall=recalled / len(real),
        density=inside / (dense * len(fake)),
        coverage=covered / len(real),
    )


def radii(features: Tensor, most: int) -> Tensor:
    """The squared distances of each of the features (N, d) to its 1st to `most`-th nearest other, (N, most)."""
    found = []
    for start in range(0, len(features), ROWS):
        apart = squares(features[start : start + ROWS], features)
        own = torch.arange(len(apart), device=apart.device)
        apart[own, own + start] = torch.inf
        found.append(apart.topk(most, largest=False).values)
    return torch.cat(found)


def squares(one: Tensor, other: Tensor) -> Tensor:
    """The squared distances of features (N, d) and (M, d) in float64, (N, M)."""
    lengths = one.square().sum(1, keepdim=True) + other.square().sum(1)
    return lengths.addmm_(one, other.T, alpha=-2).clamp_(min=0)
