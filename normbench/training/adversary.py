"""Training on images that an adversary has changed, within a maximum norm of pixels in 0..1.

free: Shafahi et al., arXiv 1904.12843, by the protocol of ConvNorm's code (shengliu66/ConvNorm at aad1043a): each batch
is trained on several times, and the gradient of each pass moves the noise of the next; the noise starts at zero with
each batch, where the paper carries it on. pgd: Madry et al., arXiv 1706.06083; examples are found in evaluation mode,
so that running statistics see only what is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.training.attacks import pgd
from normbench.training.recipe import Adversary

LEVELS = 255


def inputs(
    model: nn.Module, images: Images, pixels: Tensor, labels: Tensor, adversary: Adversary | None, seed: int
) -> Iterator[Tensor]:
    """The normalized images of each training pass over a batch uint8 (B, C, H, W): one pass without an adversary.

    The caller trains on each before it asks for the next: the free adversary goes by the gradient that this leaves.
    """
    if adversary is None:
        yield images.normalized(pixels)
        return
    clean, epsilon = pixels.float() / LEVELS, adversary.epsilon / LEVELS
    step = (adversary.step or adversary.epsilon / (1 if adversary.kind == "free" else 4)) / LEVELS
    if adversary.kind == "pgd":
        mode = model.training
        model.eval()
        generator = torch.Generator().manual_seed(seed)

        def classifier(values: Tensor) -> Tensor:
            x = (values - images.mean) / images.std
            return model(x.contiguous(memory_format=images.memory_format)).float()

        found = pgd(classifier, clean, labels, epsilon, step, adversary.steps, 1, generator)
        model.train(mode)
        yield ((found - images.mean) / images.std).contiguous(memory_format=images.memory_format)
        return
    noise = torch.zeros_like(clean)
    for _ in range(adversary.repeats):
        noise.requires_grad_()
        x = ((clean + noise).clamp(0, 1) - images.mean) / images.std
        yield x.contiguous(memory_format=images.memory_format)
        assert noise.grad is not None
        noise = (noise + step * noise.grad.sign()).clamp(-epsilon, epsilon).detach()
