"""Training on images that stay in their files: worker processes read and crop them, the device normalizes them.

It is apart from `normbench.data.prepared`, so that its digest is in the ids of those runs alone whose dataset is
streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normbench.data import prepared, workers
from normbench.data.augmentation import Augmentation
from normbench.data.batches import Batches, Images, channels_first
from normbench.data.bound import Bound
from normbench.data.labels import validation_split
from normbench.data.prepared import Splits
from normbench.data.stream import Coverings, Files
from normbench.system.transfer import to_device


class Elsewhere:
    """`Pixels` that are taken from an array each time, which may be mapped from a file, or be read as it is indexed.

    array: uint8 (N, H, W, C). device: of the pixels that are taken.
    """

    def __init__(self, array: Any, device: torch.device):
        self.array, self.device = array, device
        count, height, width, channels = array.shape
        self.shape = torch.Size((count, channels, height, width))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        taken = self.array[index.cpu().numpy() if isinstance(index, Tensor) else index]
        own = torch.from_numpy(taken if taken.flags.writeable else taken.copy())
        return channels_first(own).to(self.device)


@dataclass(frozen=True, kw_only=True)
class StreamedImages(Images):
    """Training images in their files. files: they. index: the numbers of those that are trained on, int64 (N,).

    `pixels` has them without augmentation, as test images are prepared.
    """

    files: Files
    index: np.ndarray

    def normalized(self, pixels: Tensor) -> Tensor:
        """See `Images.normalized`. A CPU normalizes one image after the other, each of which its cache holds."""
        if pixels.device.type != "cpu":
            return super().normalized(pixels)
        x = torch.empty(pixels.shape, memory_format=self.memory_format)
        for to, image in zip(x, pixels, strict=True):
            to.copy_(image).div_(255).sub_(self.mean).div_(self.std)
        return x

    def part(self, index: np.ndarray, labels: Tensor) -> Images:
        """The images with these numbers, int64 (M,), and other labels, int64 (M,)."""
        chosen = self.index[index]
        return replace(self, pixels=pixels_of(self.files, chosen, self.pixels.device), labels=labels, index=chosen)

    def batches(self, batch_size: int, drop_last: bool, seed: int, augmentation: Augmentation) -> Batches:
        """The training batches of these images (see `StreamedBatches`)."""
        return StreamedBatches(self, batch_size, drop_last, seed, augmentation)


class StreamedBatches(Batches):
    """`Batches` whose images are read and cropped in worker processes; the arguments are the same.

    The random numbers of an epoch are drawn before, so that the batches do not depend on the number of processes, and
    an epoch is resumed at any batch.
    """

    images: StreamedImages

    def pixels(self, epoch: int, first: int = 0, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        from normbench.data.crops import Crops  # imported on use, as it takes long and most datasets are not streamed

        device, drawn, rows = self.images.pixels.device, self.drawn(epoch), [*self.rows(0, part)]
        crops = Crops(self.images.files, self.images.index, self.augmentation, drawn, rows, self.images.pixels.shape)
        for number, pixels in enumerate(workers.batches(crops, first, self.steps), start=first):
            chosen = to_device(drawn.order[rows[number]], device)
            yield to_device(pixels, device), self.images.labels[chosen]

    def sizes(self) -> np.ndarray:
        return np.asarray(self.images.files.sizes[self.images.index])


def pixels_of(files: Files, index: np.ndarray, device: torch.device | str) -> Elsewhere:
    """Training images as test images are prepared, by their numbers (N,)."""
    return Elsewhere(Coverings(files, index), torch.device(device))


def load(bound: Bound, device: str) -> Splits:
    """Both splits of a prepared dataset for a device (see `normbench.data.prepared.load`).

    Of streamed ones little is read here.
    With `bound.validation` the test split are training images too, which are read when they are asked for.
    """
    if bound.reader_code is None:
        return prepared.load(bound, device)
    files, labels = Files.of(Path(bound.path)), np.load(Path(bound.path) / "train_labels.npy")
    if bound.validation is None:
        return Splits(training(files, np.arange(len(labels)), labels, bound, device), held_out(bound, device))
    kept, others = validation_split(labels, bound.validation.fraction, bound.validation.seed)
    test = split(pixels_of(files, others, device), labels[others], bound, device)
    return Splits(training(files, kept, labels[kept], bound, device), test)


def held_out(bound: Bound, device: str) -> Images:
    """The test split of a prepared dataset, like `load`; of streamed datasets it is mapped into memory."""
    if bound.reader_code is None:
        return prepared.held_out(bound, device)
    folder = Path(bound.path)
    stored = np.load(folder / "test_images.npy", mmap_mode="r")
    return split(Elsewhere(stored, torch.device(device)), np.load(folder / "test_labels.npy"), bound, device)


def split(pixels: Elsewhere, labels: np.ndarray, bound: Bound, device: str) -> Images:
    """Images and labels (N,) with the normalization of a dataset."""
    mean, std = (
        torch.tensor(each, dtype=torch.float32, device=device)[:, None, None] for each in (bound.mean, bound.std)
    )
    return Images(pixels, torch.from_numpy(labels).to(device), mean, std)


def training(files: Files, index: np.ndarray, labels: np.ndarray, bound: Bound, device: str) -> StreamedImages:
    """The training images with these numbers (N,). labels: theirs (N,)."""
    images = split(pixels_of(files, index, device), labels, bound, device)
    return StreamedImages(images.pixels, images.labels, images.mean, images.std, files=files, index=index)
