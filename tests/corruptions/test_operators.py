"""Single steps of the corruptions against what the libraries of the reference make of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from normbench.corruptions.operators import luma, motion
from normbench.corruptions.spatter import _distance as distances


def test_luma_is_pillow_s() -> None:
    colours = np.random.RandomState(0).randint(0, 256, (1, 512, 512, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours)[0, ..., 0], np.asarray(Image.fromarray(colours[0]).convert("L")))


def test_distance_to_one_edge() -> None:
    """OpenCV's 5 x 5 mask for DIST_L2: 1, 1.4 and 2.1969 pixels, in 1/65536."""
    edges = np.zeros((2, 48, 48), bool)
    edges[0, 5, 40] = True
    found = distances(edges)
    assert found[0, 5, 40] == 0
    assert found[0, 5, 33] == found[0, 12, 40] == 7 * 65536
    assert found[0, 9, 36] == found[0, 1, 44] == 4 * round(1.4 * 65536)
    assert found[0, 11, 37] == found[0, 8, 46] == 3 * round(2.1969 * 65536)
    assert found[0, 6, 36] == round(2.1969 * 65536) + 2 * 65536
    assert found[0, 9, 35] == round(2.1969 * 65536) + 3 * round(1.4 * 65536)
    assert found[0, 5, 0] > 20 * 65536
    assert found[1].min() > 20 * 65536


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
