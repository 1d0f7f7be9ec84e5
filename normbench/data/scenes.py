"""A dataset of segmentation, whose images and masks stay in files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data.arrays import MASKED
from normbench.data.bound import Bound
from normbench.functional.placement import memory_format
from normbench.system.schema import MemoryFormat


@dataclass(frozen=True)
class Scenes:
    """One split: images and masks on the host, of which batches are brought to the device.

    pixels: uint8 (N, H, W, C), masks: uint8 (N, H, W), both mapped from files. device: where the network is. mean, std:
    float32 (C, 1, 1) on the device. memory_format: of the batches that `normalized` returns, to match the network.
    """

    pixels: np.ndarray
    masks: np.ndarray
    device: str
    mean: Tensor
    std: Tensor
    memory_format: torch.memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.pixels)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Normalizes images on the device, uint8 (B, C, H, W) -> float32, with the dataset's mean and deviation."""
        x = torch.empty(pixels.shape, device=self.mean.device, memory_format=self.memory_format)
        return x.copy_(pixels).div_(255).sub_(self.mean).div_(self.std)

    def made_for(self, model: nn.Module, wanted: MemoryFormat = "channels_last") -> Scenes:
        """The same images with the memory format that a network needs on this device."""
        return replace(self, memory_format=memory_format(model, self.device, wanted))


@dataclass(frozen=True)
class ScenePair:
    """Both splits of a dataset of segmentation."""

    train: Scenes
    test: Scenes

    @property
    def device(self) -> str:
        """The type of the device: `cuda`, `mps` or `cpu`."""
        return self.train.device


@dataclass(frozen=True)
class MaskedArrays:
    """Both splits as stored on disk: images uint8 (N, H, W, C) and masks uint8 (N, H, W)."""

    train_images: np.ndarray
    train_masks: np.ndarray
    test_images: np.ndarray
    test_masks: np.ndarray

    @property
    def nbytes(self) -> int:
        """The bytes that they take on a device: none, as batches alone are brought there."""
        return 0


def read(bound: Bound) -> MaskedArrays:
    """Maps the arrays of a prepared dataset into memory; nothing is read before it is used."""
    return MaskedArrays(*(np.load(Path(bound.path) / f"{name}.npy", mmap_mode="r") for name in MASKED))


def placed(arrays: MaskedArrays, bound: Bound, device: str) -> ScenePair:
    """Both splits, of which batches are brought to a device. bound: gives the input normalization."""
    return ScenePair(
        scenes(arrays.train_images, arrays.train_masks, bound.mean, bound.std, device),
        scenes(arrays.test_images, arrays.test_masks, bound.mean, bound.std, device),
    )


def load(bound: Bound, device: str) -> ScenePair:
    """Both splits of a prepared dataset, mapped into memory."""
    return placed(read(bound), bound, device)


def held_out(bound: Bound, device: str) -> Scenes:
    """The test split of a prepared dataset, mapped into memory."""
    return load(bound, device).test


def scenes(pixels: np.ndarray, masks: np.ndarray, mean: Sequence[float], std: Sequence[float], device: str) -> Scenes:
    """Images and masks as `Scenes`. mean, std: a number for each channel, of pixels in 0..1."""
    mean_, std_ = (torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (mean, std))
    return Scenes(pixels, masks, device, mean_, std_)
