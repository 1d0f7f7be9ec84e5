"""Mean and covariance of features that come in batches, in float64 and in memory that their number does not change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """The first two moments of a number of features.

    count: how many. mean: (d,). scatter: (d, d), the sum of the outer products of the deviations from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Returns those of features (N, d)."""
        wide = features.double()
        mean = wide.mean(0)
        deviations = wide - mean
        return cls(len(wide), mean, deviations.T @ deviations)

    def merged(self, other: Moments) -> Moments:
        """Returns the moments of both sets of features together (Chan, Golub and LeVeque, 1979)."""
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        between = torch.outer(gap, gap) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def dimensions(self) -> int:
        """The number of features d."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (d, d). There must be two features or more."""
        return self.scatter / (self.count - 1)


def growing(batches: Iterable[Tensor], sizes: Iterable[int] = ()) -> Iterator[Moments]:
    """Yields the moments of the first n features for each of the ascending sizes n, and at last those of all.

    batches: features, (N, d) each. Sizes above the number of features are left out; that number itself comes once.
    """
    cuts, found = list(sizes), None
    for batch in batches:
        rest = batch
        while len(rest):
            have = found.count if found else 0
            take = min([len(rest), *(size - have for size in cuts if size > have)])
            part, rest = Moments.of(rest[:take]), rest[take:]
            found = part if found is None else found.merged(part)
            if found.count in cuts:
                yield found
    if found is not None and found.count not in cuts:
        yield found
