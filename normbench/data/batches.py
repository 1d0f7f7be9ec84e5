"""A dataset that is stored on the training device as uint8, and its batches, which are cropped and flipped there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.augmentation import Augmentation
from normbench.functional.placement import memory_format
from normbench.system.errors import UserError
from normbench.system.schema import MemoryFormat
from normbench.system.seeds import derive
from normbench.system.transfer import to_device


class Pixels(Protocol):
    """Images, uint8 (N, C, H, W), of which `[index]` gives some on a device: a tensor is one.

    The others are read or computed when they are asked for (see `normbench.data.streamed`).
    """

    @property
    def shape(self) -> torch.Size: ...

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...


@runtime_checkable
class InPieces(Protocol):
    """`Pixels` that are best taken piece by piece, as other processes make some ahead."""

    def pieces(self, size: int) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class Images:
    """One split of a dataset, on a device.

    pixels: uint8 (N, C, H, W), without augmentation. labels: int64 (N,). mean, std: float32 (C, 1, 1), statistics of
    the training images for pixels in 0..1. memory_format: the format of the batches that `normalized` returns, to match
    the network.
    """

    pixels: Pixels
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

    def part(self, index: np.ndarray, labels: Tensor) -> Images:
        """The images with these numbers, int64 (M,), and other labels, int64 (M,)."""
        return replace(self, pixels=self.pixels[torch.from_numpy(index).to(self.pixels.device)], labels=labels)

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


class Drawn(NamedTuple):
    """The random numbers of an epoch, on the CPU.

    order: of the images, int64 (N,). By the number of the image: offsets, top and left of a padded crop, int64 (2, N);
    mirrored, bool (N,); boxes, top, left, height and width of a part that is resized, int64 (N, 4), or None.
    """

    order: Tensor
    offsets: Tensor
    mirrored: Tensor
    boxes: Tensor | None


def resized_crop(image: Tensor, box: Sequence[int], size: Sequence[int]) -> Tensor:
    """A part of an image, uint8 (C, H, W), resized with torchvision's bilinear filter and antialiasing.

    box: top, left, height and width of the part. size: height and width of the result.
    """
    from torchvision.transforms.v2 import functional as transforms  # imported on use, as most recipes do not

    return transforms.resized_crop(image, *box, [*size], antialias=True)


class Batches:
    """Shuffled training batches with random crops and flips.

    drop_last: leave out a last batch that is smaller than `batch_size`. The order and augmentation of an epoch depend
    only on (seed, epoch), so all variants see the same batches.
    steps: the number of batches in an epoch. Raises UserError if there is none.
    """

    def __init__(self, images: Images, batch_size: int, drop_last: bool, seed: int, augmentation: Augmentation):
        self.images, self.batch_size, self.seed, self.augmentation = images, batch_size, seed, augmentation
        self.steps = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if self.steps == 0:
            few = f"{len(images)} training images are fewer than a batch of {batch_size}"
            raise UserError(f"recipe.drop_last: {few}, so that none would be left")
        self.offsets = 2 * augmentation.crop_padding + 1

    @cached_property
    def crops(self) -> Tensor:
        """A view of all crops, (N, C, offsets, offsets, H, W). A batch takes one crop per image from it."""
        pixels, padding = self.images.pixels[:], self.augmentation.crop_padding
        height, width = pixels.shape[-2:]
        return functional.pad(pixels, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the normalized images (B, C, H, W) and labels (B,) of an epoch, from batch `first` (from 0) on."""
        for pixels, labels in self.pixels(epoch, first):
            yield self.images.normalized(pixels), labels

    def pixels(self, epoch: int, first: int = 0, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images before normalization, uint8 (B, C, H, W), and labels of an epoch, from batch `first` on.

        part: index and count, for a process that takes a share of each batch: of B images the rows from
        B * index // count up to B * (index + 1) // count. All parts together are the batches of `(0, 1)`.
        """
        device, drawn = self.images.pixels.device, self.drawn(epoch)
        order, (top, left), mirrored = (to_device(each, device) for each in drawn[:3])
        for rows in self.rows(first, part):
            chosen = order[rows]
            if drawn.boxes is None:
                pixels = self.crops[chosen, :, top[chosen], left[chosen]]
            else:
                pixels = self.resized(chosen, drawn.boxes)
            yield self.flipped(pixels, mirrored[chosen]), self.images.labels[chosen]

    def drawn(self, epoch: int) -> Drawn:
        """The random numbers of an epoch, on the CPU, so that they are the same for every device."""
        generator = torch.Generator().manual_seed(derive(self.seed, "batches", epoch))
        count, resized = len(self.images), self.augmentation.resized
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(self.offsets, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        boxes = None if resized is None else torch.from_numpy(resized.boxes(self.sizes(), generator))
        return Drawn(order, offsets, mirrored, boxes)

    def sizes(self) -> np.ndarray:
        """Height and width of each image from which parts are cropped and resized, (N, 2)."""
        return np.broadcast_to(np.array(self.images.pixels.shape[-2:]), (len(self.images), 2))

    def rows(self, first: int, part: tuple[int, int]) -> Iterator[slice]:
        """The places in the order of an epoch that each batch has, from batch `first` on. part: see `pixels`."""
        index, count = part
        for start in range(first * self.batch_size, self.steps * self.batch_size, self.batch_size):
            size = min(self.batch_size, len(self.images) - start)
            yield slice(start + size * index // count, start + size * (index + 1) // count)

    def resized(self, chosen: Tensor, boxes: Tensor) -> Tensor:
        """Parts of images, resized to their size, uint8 (B, C, H, W). chosen: numbers (B,). boxes: (N, 4)."""
        pixels = self.images.pixels[chosen]
        found = torch.empty_like(pixels)
        for each, image, box in zip(found, pixels, boxes[chosen.cpu()].tolist(), strict=True):
            each.copy_(resized_crop(image, box, image.shape[-2:]))
        return found

    def flipped(self, pixels: Tensor, mirrored: Tensor) -> Tensor:
        """Images (B, C, H, W) of which some are mirrored, bool (B,), where the augmentation has flips."""
        return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels) if self.augmentation.flip else pixels
