"""FID: the Frechet distance of the normal distributions fitted to real and to generated features.

Heusel et al., arXiv 1706.08500. The trace of the root of the product of the covariances A B is that of the root of the
symmetric sqrt(A) B sqrt(A), whose eigenvalues are real. So no root of a matrix that is not symmetric is needed, which
takes many times as long and may become complex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from normbench.gan.scores.moments import Moments

# Above rounding, and below the share of the variance that images which differ at all leave in features.
SAME = 1e-12


@dataclass(frozen=True)
class Reference:
    """The real images as one side of a Frechet distance: their moments, and what every distance needs of them."""

    moments: Moments

    @cached_property
    def root(self) -> Tensor:
        """A matrix R, (d, d), with R R^T = the covariance."""
        values, vectors = torch.linalg.eigh(self.moments.covariance)
        return vectors * values.clamp(min=0).sqrt()

    def distance(self, moments: Moments) -> float:
        """Returns the Frechet distance to other features, 0 or more (see `undetermined` for what it needs)."""
        real, root, covariance = self.moments, self.root, moments.covariance
        values = torch.linalg.eigvalsh(root.T @ covariance @ root)
        shared = values.clamp(min=0).sqrt().sum()
        apart = (real.mean - moments.mean).square().sum()
        return max(0.0, (apart + real.covariance.trace() + covariance.trace() - 2 * shared).item())


def frechet(one: Moments, other: Moments) -> float:
    """Returns the Frechet distance of two sets of features, 0 or more. It is symmetric."""
    return Reference(one).distance(other)


def undetermined(moments: Moments, what: str) -> str:
    """Returns why the covariance of features says nothing; an empty string if it does.

    what: the images in the reason, such as `generated`.
    """
    count, needed = moments.count, moments.dimensions + 1
    images = f"{count} {what} image{'' if count == 1 else 's'}"
    if not (moments.mean.isfinite().all() and moments.scatter.isfinite().all()):
        return f"the features of the {images} are not all finite"
    if count < needed:
        return f"{images} cannot determine the covariance of {needed - 1} features, which needs {needed} or more"
    size = moments.mean.square().sum().item() + moments.scatter.trace().item() / count
    if moments.scatter.trace().item() / count <= SAME * size or math.isclose(size, 0.0):
        return f"the {images} all have the same features"
    return ""
