"""How training images are varied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TRIES = 10  # as in torchvision
CHUNK = 1 << 14  # images for which crops are drawn at a time


@dataclass(frozen=True)
class Augmentation:
    """How the images of a batch are varied; by default not at all.

    crop_padding: zero pixels added on each side of an image before a random crop of the original size. flip: random
    horizontal flips. resized: crops of random area and aspect that are resized, in the place of padded ones, or None.
    """

    crop_padding: int = 0
    flip: bool = False
    resized: ResizedCrop | None = None


@dataclass(frozen=True)
class ResizedCrop:
    """Random crops that are resized to the size of the images, as `RandomResizedCrop` of torchvision makes them.

    scale: the least and the largest share of the image's area. ratio: the least and the largest width by height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def boxes(self, sizes: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Draws a crop for each image: top, left, height and width in pixels, int64 (N, 4).

        sizes: height and width of each image, (N, 2). Of ten drawn areas and aspects the first that fits into the image
        is taken; without one, the largest crop in the middle whose aspect is allowed. generator: on the CPU.
        """
        found = np.empty((len(sizes), 4), np.int64)
        for start in range(0, len(sizes), CHUNK):
            found[start : start + CHUNK] = self._boxes(sizes[start : start + CHUNK].astype(np.int64), generator)
        return found

    def _boxes(self, sizes: np.ndarray, generator: torch.Generator) -> np.ndarray:
        import torch

        count, (height, width) = len(sizes), sizes.T
        area, aspect = torch.rand((2, count, TRIES), generator=generator, dtype=torch.float64).numpy()
        place = torch.rand((2, count), generator=generator, dtype=torch.float64).numpy()
        (least, most), (narrow, wide) = self.scale, self.ratio
        area = (height * width)[:, None] * (least + area * (most - least))
        aspect = np.exp(math.log(narrow) + aspect * (math.log(wide) - math.log(narrow)))
        across, down = (np.rint(np.sqrt(each)).astype(np.int64) for each in (area * aspect, area / aspect))
        fits = (across > 0) & (across <= width[:, None]) & (down > 0) & (down <= height[:, None])
        first, rows = fits.argmax(1), np.arange(count)
        shape = width / height
        middle_down = np.where(shape < narrow, np.rint(width / narrow), height).astype(np.int64)
        middle_across = np.where(shape > wide, np.rint(height * wide), width).astype(np.int64)
        drawn = fits.any(1)
        down = np.where(drawn, down[rows, first], middle_down)
        across = np.where(drawn, across[rows, first], middle_across)
        top, left = (
            np.where(drawn, np.floor(draw * (room + 1)), room // 2)
            for draw, room in zip(place, (height - down, width - across), strict=True)
        )
        return np.stack([top.astype(np.int64), left.astype(np.int64), down, across], axis=1)
