"""The losses of discriminators and generators, of scores (N,) that are high for real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Labelled(NamedTuple):
    """Images (N, C, H, W) in -1..1 and their classes, int64 (N,), or None where networks are given none."""

    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """The loss of the discriminator for scores of real and of generated images, and that of the generator, each 0-d."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))), as in Miyato et al., arXiv 1802.05957, equation 16."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def logistic(real: Tensor, fake: Tensor) -> Tensor:
    """-mean log sigmoid(D(x)) - mean log(1 - sigmoid(D(G(z)))), as in Goodfellow et al., arXiv 1406.2661."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """-mean log sigmoid(D(G(z))), the generator's loss in section 3 of arXiv 1406.2661."""
    return functional.softplus(-fake).mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """mean D(G(z)) - mean D(x), as in Arjovsky et al., arXiv 1701.07875."""
    return fake.mean() - real.mean()


def negated(fake: Tensor) -> Tensor:
    """-mean D(G(z)), the generator's loss with the hinge loss and with the Wasserstein loss."""
    return -fake.mean()


LOSSES = {
    "hinge": Loss(hinge, negated),
    "non_saturating": Loss(logistic, non_saturating),
    "wasserstein": Loss(wasserstein, negated),
}


def scores(discriminator: nn.Module, batch: Labelled) -> Tensor:
    """The scores of images (N,), at least in float32."""
    found = discriminator(batch.images) if batch.labels is None else discriminator(batch.images, batch.labels)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def gradient_penalty(discriminator: nn.Module, real: Labelled, fake: Tensor, shares: Tensor) -> Tensor:
    """mean (|grad D(x)| - 1)^2 at points x on lines between real and generated images, 0-d.

    Gulrajani et al., arXiv 1704.00028, algorithm 1, in the precision of the real images. real: its labels are those of
    the points. fake: images like the real ones. shares: of the generated image in each point, 0..1, (N, 1, 1, 1). Every
    layer has to be twice differentiable in its input.
    """
    with torch.autocast(fake.device.type, enabled=False):
        points = torch.lerp(real.images, fake.to(real.images.dtype), shares).requires_grad_()
        (gradients,) = torch.autograd.grad(
            scores(discriminator, Labelled(points, real.labels)).sum(), points, create_graph=True
        )
        return (torch.linalg.vector_norm(gradients.flatten(1), dim=1) - 1).square().mean()
