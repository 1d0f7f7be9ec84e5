"""Loads a prepared dataset from its folder onto a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from normbench.data.batches import Images, on_device
from normbench.data.bound import Bound
from normbench.data.labels import validation_split


@dataclass(frozen=True)
class Arrays:
    """Both splits as stored on disk: images uint8 (N, H, W, C) and labels int64 (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True)
class Splits:
    """Both splits on a device."""

    train: Images
    test: Images

    @property
    def device(self) -> str:
        """The type of the device: `cuda`, `mps` or `cpu`."""
        return self.train.pixels.device.type


def read(folder: Path) -> Arrays:
    """Reads the arrays of a prepared dataset from its folder."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return Arrays(*(np.load(folder / f"{name}.npy") for name in names))


def placed(arrays: Arrays, bound: Bound, device: str) -> Splits:
    """Moves both splits to a device. bound: gives the input normalization."""
    return Splits(
        images(arrays.train_images, arrays.train_labels, bound, device),
        images(arrays.test_images, arrays.test_labels, bound, device),
    )


def images(pixels: np.ndarray, labels: np.ndarray, bound: Bound, device: str) -> Images:
    """Moves one split to a device. pixels: uint8 (N, H, W, C). labels: int64 (N,). bound: gives the normalization."""
    # Arrays in memory shared with other processes are read-only, but torch.from_numpy expects writable ones.
    own = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in (pixels, labels)]
    return on_device(own[0], own[1], bound.mean, bound.std, device)


def load(bound: Bound, device: str) -> Splits:
    """Reads both splits of a prepared dataset from its folder and moves them to a device.

    With `bound.validation` the test images stay unread: those of the training images that are held out are the test
    split, and the others the training split.
    """
    if bound.validation is None:
        return placed(read(Path(bound.path)), bound, device)
    pixels, labels = (np.load(Path(bound.path) / f"train_{what}.npy") for what in ("images", "labels"))
    kept, held_out = validation_split(labels, bound.validation.fraction, bound.validation.seed)
    return Splits(*(images(pixels[part], labels[part], bound, device) for part in (kept, held_out)))


def held_out(bound: Bound, device: str) -> Images:
    """Reads only the test split of a prepared dataset and moves it to a device."""
    folder = Path(bound.path)
    return images(np.load(folder / "test_images.npy"), np.load(folder / "test_labels.npy"), bound, device)
