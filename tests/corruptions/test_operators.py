"""Single steps of the corruptions against what the libraries of the reference make of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from normbench.corruptions.operators import luma, motion


def test_luma_is_pillow_s() -> None:
    colours = np.random.RandomState(0).randint(0, 256, (1, 512, 512, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours)[0, ..., 0], np.asarray(Image.fromarray(colours[0]).convert("L")))


def test_motion_of_one_pixel() -> None:
    """What ImageMagick makes of a single white pixel, R = 6, sigma = 2."""
    image = np.zeros((1, 32, 32, 1), np.uint8)
    image[0, 16, 16] = 255
    levels = [84, 74, 51, 27, 11, 3]
    for angle, places in (
        (0, [(16, 16), (16, 15), (16, 14), (16, 13), (16, 12), (16, 11)]),
        (30, [(16, 16), (16, 15), (15, 14), (15, 13), (14, 13), (14, 12)]),
    ):
        wanted = np.zeros((32, 32), np.uint8)
        for place, level in zip(places, levels, strict=True):
            wanted[place] = level
        np.testing.assert_array_equal(motion(image, 6, 2, np.array([float(angle)]))[0, ..., 0], wanted)
