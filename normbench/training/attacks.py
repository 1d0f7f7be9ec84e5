"""Adversarial examples within a maximum norm: FGSM (Goodfellow et al., arXiv 1412.6572), PGD (Madry et al., arXiv
1706.06083).

Images are numbers in 0..1; the network's own normalization comes after the attack. All is in evaluation mode, float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Classifier = Callable[[Tensor], Tensor]  # images (N, C, H, W) in 0..1 -> logits (N, classes)


def gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of the cross-entropy of each image by its pixels; and the logits."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(images)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, images)
    return found, logits.detach()


def fgsm(classifier: Classifier, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """One step of length epsilon along the sign of the gradient, (N, C, H, W)."""
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
    """The last iterate of the first restart that fools the classifier, else of the last restart, (N, C, H, W).

    Each restart begins at a uniform draw from the ball, clipped to 0..1; every step of length `step` is projected back
    to both. generator: of the draws, on the CPU, so that every device starts from the same points.
    """
    result, fooled = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for _ in range(restarts):
        start = torch.rand(images.shape, generator=generator).to(images) * (2 * epsilon) - epsilon
        current = (images + start).clamp(0, 1)
        for _ in range(steps):
            found, _ = gradient(classifier, current, labels)
            moved = current + step * found.sign()
            current = torch.clamp(torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon), 0, 1)
        result = torch.where(fooled[:, None, None, None], result, current)
        with torch.no_grad():
            fooled |= classifier(result).argmax(1) != labels
    return result
