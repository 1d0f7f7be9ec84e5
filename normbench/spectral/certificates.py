"""Certificates: upper bounds on the norms of convolutions, and the radii within which a prediction cannot change."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normbench.spectral.fantastic_four import four_bounds
from normbench.spectral.frequencies import supremum_bounds
from normbench.spectral.kernels import by_group, polyphase

EXCESS = 1.05  # the largest allowed ratio of `conv_bound` to the supremum over all frequencies


def enough_points(taps: int) -> int:
    """The least number of grid points along an axis for which 1/cos(pi (taps-1)/(2 points)) is at most sqrt(EXCESS)."""
    return max(1, math.ceil(math.pi * (taps - 1) / 2 / math.acos(EXCESS**-0.5)))


def conv_bound(weight: Tensor, stride: int = 1, *, groups: int = 1) -> Tensor:
    """Upper bound on the norm of the convolution with this stride, for every padding (zero or circular) and image size.

    weight: (out, in/groups, kh, kw), or (out, in). The lesser of Fantastic Four and of a grid of frequencies that is
    fine enough to stay within 5 % of the supremum over all frequencies, group by group. A strided convolution is
    bounded by its polyphase kernel; no bound of the kernel itself is lower by more than those 5 %. Valid for a dilated
    kernel too where the stride is 1. The gradient goes through one matrix or frequency.
    """
    kernels = by_group(polyphase(weight, stride), groups)
    grid = supremum_bounds(kernels, enough_points(kernels.shape[-2]), enough_points(kernels.shape[-1]))
    return torch.minimum(grid, four_bounds(kernels).min(0).values).max(0).values.to(weight)


def margin_radius(logits: Tensor, labels: Tensor, lipschitz: float | Tensor) -> Tensor:
    """Radius around each input (N,), in the 2-norm of the input, within which the label stays the largest logit.

    logits: (N, classes). labels: (N,). lipschitz: an upper bound, above 0, on the Lipschitz constant of the network
    from inputs to logits, as a product of upper bounds on its layers; a lower estimate certifies nothing. The Lipschitz
    constant of the difference of two logits is at most sqrt(2) times that of the network. Instead it may be a tensor
    (classes, classes) of upper bounds on the constants of the differences z_y - z_j, [y, j], off its diagonal at least
    0; of two logits that differ by a constant the radius is infinite. The radius is 0 where another logit is larger.
    Raises ValueError unless a number is above 0.
    """
    if isinstance(lipschitz, Tensor):
        constants = lipschitz[labels]
    elif lipschitz > 0:
        constants = torch.full_like(logits, math.sqrt(2) * lipschitz)
    else:
        raise ValueError(f"a Lipschitz constant of {lipschitz}: expected more than 0")
    gaps = (logits.gather(1, labels[:, None]) - logits).clamp_min(0)
    distances = torch.where(gaps > 0, gaps / constants, 0)
    return distances.scatter(1, labels[:, None], math.inf).amin(1)
