"""How much generated images differ from each other, and whether a generator has collapsed.

A generator that has collapsed makes one image, or a few, whatever its noise is. Then most samples have a neighbour that
is nearly the same image.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(images: Tensor) -> Tensor:
    """The median distance of an image to the nearest other one, 0-d. images: (N, C, H, W), N > 1."""
    flat = images.float().flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(float("inf")).amin(1).median()


class Diversity:
    """Compares the distances between generated images with those between real ones.

    pixels: the real images, uint8 (N, C, H, W), of which `count` are taken, evenly spaced in their order.
    """

    def __init__(self, pixels: Tensor, count: int):
        self.count = min(count, len(pixels))
        places = torch.arange(self.count, device=pixels.device) * len(pixels) // self.count
        self.real = nearest(pixels[places]) if self.count > 1 else None

    def of(self, images: Tensor) -> float | None:
        """The median distance of an image to the nearest other one, over that of as many real images.

        images: generated, uint8 (N, C, H, W), as many as `count` or more. None if the real images do not differ.
        """
        if self.real is None:
            return None
        found = (nearest(images[: self.count]) / self.real).item()
        return found if found < float("inf") else None
