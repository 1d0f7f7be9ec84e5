"""How training images are varied."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """How the images of a batch are varied; by default not at all.

    crop_padding: zero pixels added on each side of an image before a random crop of the original size. flip: random
    horizontal flips.
    """

    crop_padding: int = 0
    flip: bool = False
