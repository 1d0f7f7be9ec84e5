"""What is trained and scored: the classes of a network, the labels of pixels, and the size at which it is scored.

`standard` is what other work reports. The void pixels are ignored in the loss and in the score, images are scored at
their own size, and the mean IoU is over the classes that some pixel has or is given.

`authors` is what the code of Network Deconvolution does (yechengxi/deconvolution, its folder Segmentation, after
torchvision's references). Void is class 0, trained and scored like the others, which follow it; images and masks are
scored with their shorter side at `base_size`, half of Cityscapes' own; the mean IoU is over all classes of the network,
of which one that does not occur counts as 0. Its numbers do not compare with those of other work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normbench.data.bound import Bound
from normbench.data.pixels import IGNORED, nearest
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.system.size import Size, sides

EPSILON = 1e-5  # in the denominators of the authors' scores


@dataclass(frozen=True)
class Protocol:
    """The choices of a protocol for a dataset.

    classes: of the network. void: whether class 0 is what the masks ignore. height, width: in pixels, of images and
    masks where they are scored.
    """

    classes: int
    void: bool
    height: int
    width: int

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """The classes of the network for stored labels, uint8 of any shape; `IGNORED` for pixels that do not count."""
        if not self.void:
            return labels
        shifted = np.arange(256) + 1
        shifted[IGNORED] = 0
        return shifted.astype(np.uint8)[labels]

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Images (N, H, W, C) in the size at which they are scored, with Pillow's bilinear filter."""
        if pixels.shape[1:3] == (self.height, self.width):
            return pixels
        return np.stack([resized(image, self.height, self.width) for image in pixels])

    def masks(self, labels: np.ndarray) -> np.ndarray:
        """The classes (N, height, width) of stored masks (N, H, W) in the size at which they are scored."""
        rows = nearest(labels.shape[1], self.height, np.arange(self.height))
        columns = nearest(labels.shape[2], self.width, np.arange(self.width))
        return self.targets(labels[:, rows[:, None], columns])


def protocol(recipe: SegmentationRecipe, bound: Bound) -> Protocol:
    """The protocol of a recipe for a dataset."""
    height, width = sides(bound.image_size)
    if recipe.protocol == "standard":
        return Protocol(bound.classes, False, height, width)
    classes = bound.classes + 1 if recipe.outputs is None else recipe.outputs
    return Protocol(classes, True, *scaled(height, width, recipe.base_size or min(height, width)))


def names_of(recipe: SegmentationRecipe, bound: Bound) -> list[str]:
    """The names of the classes of the network, in their order. Those that no pixel can have are called `unused`."""
    known = bound.masks.names if bound.masks is not None else []
    chosen = protocol(recipe, bound)
    names = ["void", *known] if chosen.void else list(known)
    unused = chosen.classes - len(names)
    return names + (["unused"] if unused == 1 else [f"unused {number + 1}" for number in range(unused)])


def crop_size(recipe: SegmentationRecipe, bound: Bound) -> Size:
    """The size of the images that a network is trained on."""
    return bound.image_size if recipe.crop_size is None else recipe.crop_size


def scaled(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `shorter`; the other one is rounded down."""
    if height < width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image, uint8 (H, W, C), resized with Pillow's bilinear filter (antialiased)."""
    from PIL import Image  # where records are read, it is not needed

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)
