"""Adversarial training with perturbations bounded in the maximum norm, on pixels in 0..1.

free: Shafahi et al., arXiv 1904.12843, by the protocol of ConvNorm's code (shengliu66/ConvNorm at aad1043a). Each batch
is trained on several times, and the gradient of each pass updates the perturbation for the next pass. The perturbation
is reset to zero for every batch, whereas the paper carries it over from batch to batch.

pgd: Madry et al., arXiv 1706.06083. Adversarial examples are searched for in evaluation mode, so that running
statistics only see the images that are trained on.
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
    """Yields the normalized images, float32 (B, C, H, W), for each training pass over one batch.

    pixels: uint8 (B, C, H, W). labels: int64 (B,). adversary: None for a single pass over the clean images; `pgd` also
    gives one pass, `free` gives `repeats` of them. seed: of the random starts of PGD.

    The caller must run the backward pass on each result before asking for the next one: the free adversary reads the
    gradient that the backward pass leaves in the perturbation.
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
