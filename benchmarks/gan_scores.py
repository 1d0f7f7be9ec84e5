"""The time of the FID's linear algebra against the root of a matrix, and how far the two are apart.

`python -m benchmarks.gan_scores`, or with the numbers of features, e.g. `python -m benchmarks.gan_scores 256 2048`. The
two take turns. On 2 cores, 2,048 features should take at most 10 s by the symmetric form.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from scipy import linalg

from normbench.gan.scores.frechet import frechet
from normbench.gan.scores.moments import Moments
from normbench.system.text import say

TURNS = 2


def main() -> None:
    """Prints a line for each number of features."""
    say(f"{torch.get_num_threads()} threads; seconds are the least of {TURNS} turns")
    for dimensions in [int(each) for each in sys.argv[1:]] or [64, 256, 1024, 2048]:
        say(line(dimensions))


def line(dimensions: int) -> str:
    """Returns the times for a number of features, and the relative difference of the values."""
    generator = torch.Generator().manual_seed(dimensions)
    one, other = (drawn(dimensions, generator) for _ in range(2))
    a, b = Moments.of(one), Moments.of(other)
    ours, theirs = [], []
    for _ in range(TURNS):
        began = time.perf_counter()
        found = frechet(a, b)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        expected = by_root(a, b)
        theirs.append(time.perf_counter() - began)
    ratio = min(theirs) / min(ours)
    apart = abs(found - expected) / expected
    return (
        f"{dimensions:5} features: {min(ours):7.3f} s by eigenvalues, {min(theirs):7.3f} s by sqrtm, "
        f"{ratio:5.1f} times as long; values {apart:.1e} apart"
    )


def drawn(dimensions: int, generator: torch.Generator) -> torch.Tensor:
    """Correlated features, twice as many as they have dimensions, with variances over three orders of magnitude."""
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    mixing *= torch.logspace(0, -1.5, dimensions, dtype=torch.float64)[:, None]
    return torch.randn(2 * dimensions, dimensions, generator=generator, dtype=torch.float64) @ mixing


def by_root(one: Moments, other: Moments) -> float:
    """The distance by scipy's root of the product of the covariances."""
    a, b = one.covariance.numpy(), other.covariance.numpy()
    root = linalg.sqrtm(a @ b)
    gap = (one.mean - other.mean).square().sum().item()
    return float(gap + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


if __name__ == "__main__":
    main()
