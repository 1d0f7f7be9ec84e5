"""Noise, and what a generator makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.gan.losses import Labelled
from normbench.system.transfer import to_device

BATCH = 500


class Noise:
    """Standard normal noise and classes for the generator, drawn on the CPU so that they are the same on every device.

    The host does not wait until they are on the device. classes: the number of classes, or None without.
    """

    def __init__(self, latent: int, seed: int, device: str, classes: int | None = None):
        self.generator, self.latent, self.device = torch.Generator().manual_seed(seed), latent, device
        self.classes = classes

    def draw(self, count: int) -> Tensor:
        """The next noise vectors, (count, latent), on the device."""
        return to_device(torch.randn(count, self.latent, generator=self.generator), self.device)

    def draw_labels(self, count: int) -> Tensor | None:
        """The next classes, int64 (count,), each as likely, on the device; None without classes."""
        if self.classes is None:
            return None
        return to_device(torch.randint(self.classes, (count,), generator=self.generator), self.device)


def generated(generator: nn.Module, noise: Tensor, labels: Tensor | None) -> Labelled:
    """The images of noise (N, latent) and classes (N,), if the generator is given any."""
    return Labelled(generator(noise) if labels is None else generator(noise, labels), labels)


@torch.inference_mode()
def sample(generator: nn.Module, latent: int, count: int, seed: int, device: str) -> Tensor:
    """Generated images, uint8 (count, C, H, W), on the device. The noise depends on the seed, not on the device.

    A generator that is given classes has its number of them as the attribute `classes`; they take turns.
    """
    noise, classes = Noise(latent, seed, device).draw(count), getattr(generator, "classes", None)
    turns = None if classes is None else torch.arange(count, device=device) % classes
    images = [
        generated(generator, block, None if turns is None else turns[start : start + BATCH]).images
        for start, block in zip(range(0, count, BATCH), noise.split(BATCH), strict=True)
    ]
    return torch.cat(images).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
