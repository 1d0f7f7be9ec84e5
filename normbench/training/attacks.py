"""Adversarial attacks bounded in the maximum norm or in the 2-norm: FGSM (Goodfellow et al., arXiv 1412.6572) and PGD
(Madry et al., arXiv 1706.06083), and with the 2-norm FGM (Miyato et al., arXiv 1605.07725) and PGD likewise.

Images are float32 in 0..1, before the network's input normalization, which the classifier itself applies. The caller
puts the network into evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from normbench.system.transfer import to_device

Classifier = Callable[[Tensor], Tensor]  # images (N, C, H, W) in 0..1 -> logits (N, classes)


def gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each image's cross-entropy with respect to its pixels, (N, C, H, W), and the logits (N, classes)."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(images)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, images)
    return found, logits.detach()


def fgsm(classifier: Classifier, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Images (N, C, H, W) in 0..1 after one step of size epsilon along the sign of the gradient."""
    found, _ = gradient(classifier, images, labels)
    return (images + epsilon * found.sign()).clamp(0, 1)


def pgd(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Adversarial images (N, C, H, W) in 0..1, at most epsilon away from `images` in the maximum norm.

    For each image, the last iterate of the first restart that fools the classifier, or of the last restart if none
    does. A restart begins at a point drawn uniformly from the epsilon-ball and clipped to 0..1. It takes `steps` steps
    of size `step` along the sign of the gradient, each projected back onto the ball and onto 0..1.
    generator: draws the starting points on the CPU, so that they are the same on every device.
    """
    result, fooled = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for _ in range(restarts):
        drawn = to_device(torch.rand(images.shape, generator=generator), images.device).to(images.dtype)
        start = drawn * (2 * epsilon) - epsilon
        current = (images + start).clamp(0, 1)
        for _ in range(steps):
            found, _ = gradient(classifier, current, labels)
            moved = current + step * found.sign()
            current = torch.clamp(torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon), 0, 1)
        result = torch.where(fooled[:, None, None, None], result, current)
        with torch.no_grad():
            fooled |= classifier(result).argmax(1) != labels
    return result


INSIDE = 1 - 1e-6  # of the radius: rounding in float32 must not take an image out of the ball


def lengths(x: Tensor) -> Tensor:
    """The 2-norm of each image of x (N, C, H, W), as (N, 1, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def direction(x: Tensor) -> Tensor:
    """Each image of x (N, C, H, W) over its 2-norm; an image of zeros stays one, and the smallest gradients count."""
    scaled = x / x.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return scaled / lengths(scaled).clamp_min(torch.finfo(x.dtype).tiny)


def fgm(classifier: Classifier, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Images (N, C, H, W) in 0..1 after one step of 2-norm `radius` along the gradient, clipped to 0..1."""
    found, _ = gradient(classifier, images, labels)
    return (images + INSIDE * radius * direction(found)).clamp(0, 1)


def pgd_l2(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    radius: float,
    step: float,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Adversarial images (N, C, H, W) in 0..1, at most `radius` away from `images` in the 2-norm.

    As `pgd`, but a restart begins at a point drawn uniformly from the ball of the 2-norm, steps of length `step` are
    along the gradient itself, and each is projected onto the ball and then onto 0..1, which leaves it in the ball.
    generator: draws on the CPU.
    """
    result, fooled = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    entries = images[0].numel()
    for _ in range(restarts):
        drawn = torch.randn(images.shape, generator=generator)
        share = torch.rand((len(images), 1, 1, 1), generator=generator).pow(1 / entries)
        start = to_device(INSIDE * radius * share * direction(drawn), images.device).to(images.dtype)
        current = (images + start).clamp(0, 1)
        for _ in range(steps):
            found, _ = gradient(classifier, current, labels)
            change = current + step * direction(found) - images
            inside = (INSIDE * radius / lengths(change).clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1)
            current = (images + inside * change).clamp(0, 1)
        result = torch.where(fooled[:, None, None, None], result, current)
        with torch.no_grad():
            fooled |= classifier(result).argmax(1) != labels
    return result
