"""A dataset that is stored on the training device as uint8, and its batches, which are cropped and flipped there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.augmentation import Augmentation
from normbench.functional.placement import memory_format
from normbench.system.errors import UserError
from normbench.system.schema import MemoryFormat
from normbench.system.seeds import derive
from normbench.system.transfer import to_device


@dataclass(frozen=True)
class Images:
    """One split of a dataset, on a device.

    pixels: uint8 (N, C, H, W). labels: int64 (N,). mean, std: float32 (C, 1, 1), statistics of the training images for
    pixels in 0..1. memory_format: the format of the batches that `normalized` returns, to match the network.
    """

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    memory_format: torch.memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Normalizes images, uint8 (B, C, H, W) -> float32, with the dataset's mean and standard deviation."""
        # A new tensor, because the strides of an indexed one with a single channel can look like channels_last.
        x = torch.empty(pixels.shape, device=self.pixels.device, memory_format=self.memory_format)
        return x.copy_(pixels).div_(255).sub_(self.mean).div_(self.std)

    def made_for(self, model: nn.Module, wanted: MemoryFormat = "channels_last") -> Images:
        """The same images with the memory format that a network needs on this device.

        See `normbench.functional.placement.memory_format`.
        """
        return replace(self, memory_format=memory_format(model, self.pixels.device.type, wanted))

    def batches(self, batch_size: int, drop_last: bool, seed: int, augmentation: Augmentation) -> Batches:
        """The training batches of these images (see `Batches`)."""
        return Batches(self, batch_size, drop_last, seed, augmentation)


def channels_first(pixels: Tensor) -> Tensor:
    """Permutes images, (N, H, W, C) -> (N, C, H, W); the result is contiguous."""
    return pixels.permute(0, 3, 1, 2).contiguous()


def on_device(pixels: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float], device: str) -> Images:
    """Moves images and labels as stored on disk to a device. pixels: uint8 (N, H, W, C). labels: int64 (N,)."""
    placed = channels_first(pixels).to(device)
    mean_, std_ = (torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (mean, std))
    return Images(placed, labels.to(device), mean_, std_)


class Batches:
    """Shuffled training batches with random crops and flips.

    drop_last: leave out a last batch that is smaller than `batch_size`. The order and augmentation of an epoch depend
    only on (seed, epoch), so all variants see the same batches.
    steps: the number of batches in an epoch. Raises UserError if there is none.
    """

    def __init__(self, images: Images, batch_size: int, drop_last: bool, seed: int, augmentation: Augmentation):
        self.images, self.batch_size, self.flip, self.seed = images, batch_size, augmentation.flip, seed
        self.steps = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if self.steps == 0:
            few = f"{len(images)} training images are fewer than a batch of {batch_size}"
            raise UserError(f"recipe.drop_last: {few}, so that none would be left")
        height, width = images.pixels.shape[-2:]
        padding = augmentation.crop_padding
        self.offsets = 2 * padding + 1
        # A view of all crops, (N, C, offsets, offsets, H, W). A batch takes one crop per image from it.
        self.crops = functional.pad(images.pixels, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the normalized images (B, C, H, W) and labels (B,) of an epoch, from batch `first` (from 0) on."""
        for pixels, labels in self.pixels(epoch, first):
            yield self.images.normalized(pixels), labels

    def pixels(self, epoch: int, first: int = 0, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images before normalization, uint8 (B, C, H, W), and labels of an epoch, from batch `first` on.

        part: index and count, for a process that takes a share of each batch: of B images the rows from
        B * index // count up to B * (index + 1) // count. All parts together are the batches of `(0, 1)`.
        """
        # Random numbers are drawn on the CPU, so that they are the same for every device.
        generator = torch.Generator().manual_seed(derive(self.seed, "batches", epoch))
        count, device = len(self.images), self.images.pixels.device
        order = to_device(torch.randperm(count, generator=generator), device)
        top, left = to_device(torch.randint(self.offsets, (2, count), generator=generator), device)
        mirrored = to_device(torch.rand(count, generator=generator) < 0.5, device)
        for start in range(first * self.batch_size, self.steps * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            chosen = chosen[slice(*(len(chosen) * (part[0] + end) // part[1] for end in (0, 1)))]
            pixels = self.crops[chosen, :, top[chosen], left[chosen]]
            if self.flip:
                pixels = torch.where(mirrored[chosen, None, None, None], pixels.flip(3), pixels)
            yield pixels, self.images.labels[chosen]
