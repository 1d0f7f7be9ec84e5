"""A prepared dataset: from the arrays in its folder to images on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from normbench.data.batches import Images, on_device
from normbench.data.bound import Bound


@dataclass(frozen=True)
class Arrays:
    """Both splits as they lie on disk: images uint8 (N, H, W, C) and labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True)
class Splits:
    """Both splits on a device."""

    train: Images
    test: Images

    @property
    def device(self) -> str:
        """`cuda`, `mps` or `cpu`."""
        return self.train.pixels.device.type


def read(folder: Path) -> Arrays:
    """The arrays of a prepared dataset."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return Arrays(*(np.load(folder / f"{name}.npy") for name in names))


def placed(arrays: Arrays, bound: Bound, device: str) -> Splits:
    """The arrays on a device, with the normalization of the bound dataset."""
    return Splits(
        images(arrays.train_images, arrays.train_labels, bound, device),
        images(arrays.test_images, arrays.test_labels, bound, device),
    )


def images(pixels: np.ndarray, labels: np.ndarray, bound: Bound, device: str) -> Images:
    """One split, uint8 (N, H, W, C) and int64 (N,), on a device."""
    # Arrays that other processes read too cannot be written, and torch wants its own to be writable.
    own = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in (pixels, labels)]
    return on_device(own[0], own[1], bound.mean, bound.std, device)


def load(bound: Bound, device: str) -> Splits:
    """Both splits of a bound dataset, read from its folder, on a device."""
    return placed(read(Path(bound.path)), bound, device)


def held_out(bound: Bound, device: str) -> Images:
    """The test images of a bound dataset alone, on a device."""
    folder = Path(bound.path)
    return images(np.load(folder / "test_images.npy"), np.load(folder / "test_labels.npy"), bound, device)
