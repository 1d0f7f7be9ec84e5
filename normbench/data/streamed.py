"""Training on images that stay in their files: worker processes read and crop them, the device does the rest.

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
from torch.nn import functional

from normbench.data import prepared, workers
from normbench.data.augmentation import Augmentation
from normbench.data.batches import Batches, Drawn, Images, channels_first, resized_crop
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
        device, drawn, rows = self.images.pixels.device, self.drawn(epoch), [*self.rows(0, part)]
        crops = Crops(self.images.files, self.images.index, self.augmentation, drawn, rows, self.images.pixels.shape)
        for number, pixels in enumerate(workers.batches(crops, first, self.steps), start=first):
            chosen = drawn.order[rows[number]]
            mirrored = to_device(drawn.mirrored[chosen], device)
            yield self.flipped(to_device(pixels, device), mirrored), self.images.labels[to_device(chosen, device)]

    def sizes(self) -> np.ndarray:
        return np.asarray(self.images.files.sizes[self.images.index])


@dataclass
class Crops:
    """Makes the batches of an epoch by their numbers, without flips, uint8 (B, C, H, W).

    files, index: the images. drawn: the random numbers of the epoch. rows: of each batch. shape: of all images.
    """

    files: Files
    index: np.ndarray
    augmentation: Augmentation
    drawn: Drawn
    rows: list[slice]
    shape: torch.Size

    def __call__(self, batch: int) -> Tensor:
        chosen = self.drawn.order[self.rows[batch]]
        made = torch.empty((len(chosen), *self.shape[1:]), dtype=torch.uint8)
        for to, number in zip(made, chosen.tolist(), strict=True):
            to.copy_(self.crop(number))
        return made

    def crop(self, number: int) -> Tensor:
        """The part of an image that the epoch has, uint8 (C, H, W)."""
        height, width = self.shape[2:]
        if self.drawn.boxes is not None:
            picture = on_planes(self.files.picture(int(self.index[number])))
            return resized_crop(picture, self.drawn.boxes[number].tolist(), (height, width))
        top, left = self.drawn.offsets[:, number].tolist()
        picture = on_planes(self.files.covering(int(self.index[number])))
        return functional.pad(picture, [self.augmentation.crop_padding] * 4)[:, top : top + height, left : left + width]


def on_planes(picture: np.ndarray) -> Tensor:
    """A picture, uint8 (H, W, C), as a tensor (C, H, W), which shares its memory where it may be written."""
    return torch.from_numpy(picture if picture.flags.writeable else picture.copy()).permute(2, 0, 1)


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
