"""What worker processes do: read images and crop them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from normbench.data.augmentation import Augmentation
from normbench.data.batches import Drawn
from normbench.data.stream import Files


@dataclass
class Crops:
    """Makes the batches of an epoch by their numbers, uint8 (B, C, H, W).

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
            crop = self.crop(number)
            if self.augmentation.flip and self.drawn.mirrored[number]:
                crop = cv2.flip(crop, 1)
            to.copy_(torch.from_numpy(crop).permute(2, 0, 1))
        return made

    def crop(self, number: int) -> np.ndarray:
        """The part of an image that the epoch has, uint8 (H, W, C)."""
        height, width = self.shape[2:]
        if self.drawn.boxes is None:
            top, left = self.drawn.offsets[:, number].tolist()
            padding = self.augmentation.crop_padding
            picture = np.pad(
                self.files.covering(int(self.index[number])), ((padding, padding), (padding, padding), (0, 0))
            )
            return np.ascontiguousarray(picture[top : top + height, left : left + width])
        top, left, down, across = self.drawn.boxes[number].tolist()
        # Of a part that is contiguous torch makes the same pixels in half of the time.
        part = np.ascontiguousarray(self.files.picture(int(self.index[number]))[top : top + down, left : left + across])
        planes = torch.from_numpy(part).permute(2, 0, 1)
        resized: Tensor = transforms.resize(planes, [height, width], antialias=True)
        return resized.permute(1, 2, 0).contiguous().numpy()
