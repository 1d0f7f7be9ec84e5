"""What the FID of infinitely many images would be, and how far the FID of other images would be from that of these.

The FID of n generated images is too large by about c / n, with a c that depends on the generator (Binkowski et al.,
arXiv 1801.01401), so FIDs of different numbers of images, and even of two generators, are not comparable. A line over
1 / n takes this away: FID-infinity of Chong and Forsyth, arXiv 1911.07023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normbench.gan.scores.frechet import Reference
from normbench.gan.scores.moments import Moments

POINTS = 15  # numbers of images through which the line is drawn, as in the authors' code
FROM = 10  # the smallest is a tenth of all, as in the authors' code (5,000 of 50,000)
STABLE = 2  # images for each dimension below which the bias is no longer near c / n
NORMAL = 1.959964  # standard deviations of a normal distribution on either side that hold 95 %


def sizes(count: int, dimensions: int) -> list[int]:
    """Returns the numbers of images for the line, ascending to all; none if there are too few for it.

    The images are independent, so that the first n of them are a random sample of n.
    """
    least = max(count // FROM, STABLE * dimensions)
    if count < 2 * least:
        return []
    return sorted({round(least + (count - least) * point / (POINTS - 1)) for point in range(POINTS)})


def fewest(dimensions: int) -> int:
    """Returns the number of images below which there is no line."""
    return 2 * STABLE * dimensions


def weights(numbers: Sequence[int]) -> Tensor:
    """The weights (K,) of the distances at K numbers of images in the value at infinity of their line over 1 / n."""
    inverse = 1 / torch.tensor(numbers, dtype=torch.float64)
    centred = inverse - inverse.mean()
    return 1 / len(numbers) - inverse.mean() * centred / centred.square().sum()


def at_infinity(distances: Sequence[float], numbers: Sequence[int]) -> float:
    """Returns the value at infinity of the line of least squares through distances over 1 / n."""
    return (weights(numbers) @ torch.tensor(distances, dtype=torch.float64)).item()


def stretch(numbers: Sequence[int]) -> float:
    """How many times as far the value at infinity spreads as the distance of all images does.

    A distance is the mean over its images of what each contributes, plus its bias, up to smaller terms. So in the value
    at infinity, an image has the sum of weight / n over the numbers n that count it in, instead of 1 / (all).
    """
    total, shares = numbers[-1], weights(numbers) / torch.tensor(numbers, dtype=torch.float64)
    first, variance = 0, 0.0
    for place, number in enumerate(numbers):
        variance += (number - first) * shares[place:].sum().item() ** 2
        first = number
    return math.sqrt(total * variance)


def resampled(features: Tensor, reference: Reference, resamples: int, seed: int) -> Tensor:
    """The distances (resamples,) of bootstrap samples of generated features (N, d), drawn with replacement.

    A sample may lack too many of the images for its covariance to be one of full rank; that is no problem here. The
    distances are larger than that of the features by about its bias, so only their spread counts.
    """
    wide = features.double()
    centre = wide.mean(0)
    wide = wide - centre
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(resamples):
        chosen = torch.randint(len(wide), (len(wide),), generator=generator)
        times = torch.bincount(chosen, minlength=len(wide)).double().to(wide.device)[:, None]
        mean = (times * wide).sum(0) / len(wide)
        scatter = (times * wide).T @ wide - len(wide) * torch.outer(mean, mean)
        found.append(reference.distance(Moments(len(wide), centre + mean, scatter)))
    return torch.tensor(found, dtype=torch.float64)


def deviation(distances: Tensor, counted: int, total: int) -> float:
    """The standard deviation that sampling gives to the distance of `total` images; bootstrap samples had `counted`."""
    return distances.std().item() * math.sqrt(counted / total)
