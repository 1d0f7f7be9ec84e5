"""A dataset that lives on the training device as uint8, and its batches, cropped and flipped there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.placement import memory_format
from normbench.system.errors import UserError
from normbench.system.schema import MemoryFormat
from normbench.system.seeds import derive


@dataclass(frozen=True)
class Images:
    """pixels: uint8 (N, C, H, W) on the device. labels: int64 (N,) there too. mean, std: float32 (C, 1, 1), in 0..1.
    memory_format: of the batches that `normalized` makes, that of the network which takes them."""

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    memory_format: torch.memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def normalized(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 in the memory format, zero mean and unit deviation over training."""
        # A new tensor, as the strides of a gathered one with a single channel can pass for channels_last.
        x = torch.empty(pixels.shape, device=self.pixels.device, memory_format=self.memory_format)
        return x.copy_(pixels).div_(255).sub_(self.mean).div_(self.std)

    def made_for(self, model: nn.Module, wanted: MemoryFormat = "channels_last") -> Images:
        """The same images, in batches as a network on this device takes them (see `normbench.functional.placement`)."""
        return replace(self, memory_format=memory_format(model, self.pixels.device.type, wanted))


def channels_first(pixels: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), contiguous."""
    return pixels.permute(0, 3, 1, 2).contiguous()


def on_device(pixels: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float], device: str) -> Images:
    """uint8 (N, H, W, C) and int64 (N,) as they lie on disk -> Images."""
    placed = channels_first(pixels).to(device)
    mean_, std_ = (torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (mean, std))
    return Images(placed, labels.to(device), mean_, std_)


class Batches:
    """Shuffled training batches: a random crop from the image with `crop_padding` zero pixels around it, then a flip.

    The order and the augmentation of an epoch depend on (seed, epoch) alone: variants see the same batches.
    """

    def __init__(self, images: Images, batch_size: int, crop_padding: int, flip: bool, drop_last: bool, seed: int):
        self.images, self.batch_size, self.flip, self.seed = images, batch_size, flip, seed
        self.steps = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if self.steps == 0:
            few = f"{len(images)} training images are fewer than a batch of {batch_size}"
            raise UserError(f"recipe.drop_last: {few}, so that none would be left")
        size = images.pixels.shape[-1]
        self.offsets = 2 * crop_padding + 1
        # (N, C, offsets, offsets, H, W): a view of every crop, of which a batch gathers one an image.
        self.crops = functional.pad(images.pixels, [crop_padding] * 4).unfold(2, size, 1).unfold(3, size, 1)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized images (B, C, H, W) and labels (B,), from batch `first` to the last of `steps`."""
        for pixels, labels in self.pixels(epoch, first):
            yield self.images.normalized(pixels), labels

    def pixels(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The same before the normalization, uint8 (B, C, H, W), from batch `first` on."""
        # Drawn on the CPU, so that every device sees the same order.
        generator = torch.Generator().manual_seed(derive(self.seed, "batches", epoch))
        count, device = len(self.images), self.images.pixels.device
        order = torch.randperm(count, generator=generator).to(device)
        top, left = torch.randint(self.offsets, (2, count), generator=generator).to(device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
        for start in range(first * self.batch_size, self.steps * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            pixels = self.crops[chosen, :, top[chosen], left[chosen]]
            if self.flip:
                pixels = torch.where(mirrored[chosen, None, None, None], pixels.flip(3), pixels)
            yield pixels, self.images.labels[chosen]
