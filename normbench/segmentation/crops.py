"""The training batches: random crops of scaled and flipped images, each cut from its place in a mapped file.

An image is resized until its shorter side has the drawn length, padded if that is smaller than the crop, and cropped,
in the order of torchvision's references for segmentation. Only the part that is kept is computed, which gives the same
pixels: Pillow's filter sees what lies around that part.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from normbench.data.pixels import IGNORED, nearest
from normbench.data.scenes import Scenes
from normbench.segmentation.protocol import Protocol, scaled
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.system.size import sides
from normbench.system.transfer import to_device

THREADS = 4  # that cut crops for a GPU while it trains; a CPU has none to spare
AHEAD = 2  # batches that are cut before they are needed


@dataclass(frozen=True)
class Drawn:
    """The random numbers of an epoch: the order of the images and, by image, sides, places and flips, all (N,).

    shorter: the shorter side in pixels. top, left: the place of the crop as a share of the places that there are, 0..1.
    """

    order: np.ndarray
    shorter: np.ndarray
    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray


class Crops:
    """The batches of a recipe. steps: the number of batches in an epoch.

    The order and the crops of an epoch depend on (seed, epoch) alone, so all variants see the same batches, and it does
    not matter at which batch an epoch is begun, or how many threads cut the crops. Raises UserError if there is none.
    """

    def __init__(self, scenes: Scenes, recipe: SegmentationRecipe, protocol: Protocol, seed: int):
        self.scenes, self.recipe, self.protocol, self.seed = scenes, recipe, protocol, seed
        self.batch_size, count = recipe.batch_size, len(scenes)
        self.steps = count // self.batch_size if recipe.drop_last else -(-count // self.batch_size)
        if self.steps == 0:
            few = f"{count} training images are fewer than a batch of {self.batch_size}"
            raise UserError(f"recipe.drop_last: {few}, so that none would be left")
        own = scenes.pixels.shape[1:3]
        self.height, self.width = own if recipe.crop_size is None else sides(recipe.crop_size)
        base = recipe.base_size or min(own)
        self.least, self.most = (max(1, int(factor * base)) for factor in recipe.scale)

    def draw(self, epoch: int) -> Drawn:
        """The random numbers of an epoch. They are drawn on the CPU, so that they are the same for every device."""
        generator, count = torch.Generator().manual_seed(derive(self.seed, "batches", epoch)), len(self.scenes)
        order = torch.randperm(count, generator=generator)
        shorter = torch.randint(self.least, self.most + 1, (count,), generator=generator)
        top, left = torch.rand(2, count, generator=generator, dtype=torch.float64)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return Drawn(*(each.numpy() for each in (order, shorter, top, left, mirrored)))

    def crop(self, drawn: Drawn, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The crop of an image, uint8 (H, W, C), and the classes of its pixels, uint8 (H, W).

        number: of the image. A class is one of the network; `IGNORED` for pixels that do not count.
        """
        pixels, labels = self.scenes.pixels[number], self.scenes.masks[number]
        own = labels.shape
        height, width = scaled(own[0], own[1], int(drawn.shorter[number]))
        # The part of the scaled image that is seen, and its place in it.
        seen_height, seen_width = min(height, self.height), min(width, self.width)
        top = int(drawn.top[number] * (height - seen_height + 1))
        left = int(drawn.left[number] * (width - seen_width + 1))
        rows = nearest(own[0], height, np.arange(top, top + seen_height))
        columns = nearest(own[1], width, np.arange(left, left + seen_width))
        across = slice(None, None, -1 if self.recipe.flip and drawn.mirrored[number] else 1)
        image = np.zeros((self.height, self.width, pixels.shape[2]), np.uint8)
        image[:seen_height, :seen_width] = part(pixels, height, width, top, left, seen_height, seen_width)[:, across]
        classes = np.full((self.height, self.width), IGNORED, np.uint8)
        classes[:seen_height, :seen_width] = self.protocol.targets(labels[rows[:, None], columns])[:, across]
        return image, classes

    def batch(self, drawn: Drawn, part: tuple[int, int], step: int) -> tuple[np.ndarray, np.ndarray]:
        """The crops of a part of a batch, uint8 (B, C, H, W), and their classes, uint8 (B, H, W)."""
        chosen = drawn.order[step * self.batch_size : (step + 1) * self.batch_size]
        chosen = chosen[slice(*(len(chosen) * (part[0] + end) // part[1] for end in (0, 1)))]
        images, classes = zip(*(self.crop(drawn, int(number)) for number in chosen), strict=True)
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), np.stack(classes)

    def pixels(self, epoch: int, first: int = 0, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images before normalization, uint8 (B, C, H, W), and the classes of their pixels, int64 (B, H, W).

        They are on the device. first: the first batch, from 0. part: as in `normbench.data.batches.Batches`. Beside
        a GPU, threads cut the next batches meanwhile.
        """
        drawn, device = self.draw(epoch), self.scenes.device
        made = partial(self.batch, drawn, part)
        steps = range(first, self.steps)
        for images, classes in map(made, steps) if device == "cpu" else _ahead(made, steps):
            yield to_device(torch.from_numpy(images), device), to_device(torch.from_numpy(classes), device).long()


def part(
    pixels: np.ndarray, height: int, width: int, top: int, left: int, seen_height: int, seen_width: int
) -> np.ndarray:
    """A part of an image that is resized to height and width, uint8 (seen_height, seen_width, C).

    pixels: uint8 (H, W, C). top, left: the place of the part in the resized image.
    """
    own_height, own_width, channels = pixels.shape
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    down, across = own_height / height, own_width / width
    box = (
        left * across,
        top * down,
        min(own_width, (left + seen_width) * across),
        min(own_height, (top + seen_height) * down),
    )
    found = picture.resize((seen_width, seen_height), Image.Resampling.BILINEAR, box)
    return np.asarray(found).reshape(seen_height, seen_width, channels)


def _ahead(made: partial[tuple[np.ndarray, np.ndarray]], steps: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches of some steps in their order, which threads make before they are needed."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(made, step) for step in steps[:AHEAD]]
        for step in steps:
            if step + AHEAD < steps.stop:
                waiting.append(pool.submit(made, step + AHEAD))
            yield waiting.pop(0).result()
