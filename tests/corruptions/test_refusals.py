"""What `corrupt` refuses, each in one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.corruptions import NAMES, corrupt
from normbench.system.errors import UserError


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "gausian_noise"}, "unknown corruption 'gausian_noise': did you mean 'gaussian_noise'?"),
        ({"severity": 0}, "severity 0 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": 6}, "severity 6 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": 1.5}, "severity 1.5 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": float("nan")}, "severity nan of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": True}, "severity True of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": "3"}, "severity '3' of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": [1, 2]}, "severity [1, 2] of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": np.zeros(3)}, "severity array([0., 0., 0.]) of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": None}, "severity None of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"name": "Gaussian Noise"}, "unknown corruption 'Gaussian Noise': did you mean 'gaussian_noise'?"),
        ({"name": None}, f"corruption None: needs a name; valid: {', '.join(sorted(NAMES))}"),
        ({"name": ["fog"]}, f"corruption ['fog']: needs a name; valid: {', '.join(sorted(NAMES))}"),
        ({"seed": None}, "seed None: needs a whole number"),
        ({"seed": 1.5}, "seed 1.5: needs a whole number"),
        ({"seed": "0"}, "seed '0': needs a whole number"),
        (
            {"images": np.zeros((2, 32, 32, 3))},
            "images of type float64: corruptions need uint8, 0 to 255;"
            " values in 0..1 become that by (255 * images).round()",
        ),
        ({"images": np.zeros((2, 32, 32, 3), bool)}, "images of type bool: corruptions need uint8, 0 to 255"),
        (
            {"images": np.zeros((32, 32, 3), np.uint8)},
            "images of shape (32, 32, 3): corruptions need (N, H, W, C), C = 1 or 3; a single image is images[None]",
        ),
        (
            {"images": Image.new("RGB", (40, 32))},
            "images of shape (32, 40, 3): corruptions need (N, H, W, C), C = 1 or 3; a single image is images[None]",
        ),
        (
            {"images": np.zeros((32, 40), np.uint8)},
            "images of shape (32, 40): corruptions need (N, H, W, C), C = 1 or 3;"
            " a single grey image is images[None, ..., None]",
        ),
        (
            {"images": np.zeros((2, 32, 32), np.uint8)},
            "images of shape (2, 32, 32): corruptions need (N, H, W, C), C = 1 or 3; grey images are images[..., None]",
        ),
        (
            {"images": np.zeros((2, 3, 32, 32), np.uint8)},
            "images of shape (2, 3, 32, 32): corruptions need (N, H, W, C), C = 1 or 3;"
            " what has them elsewhere is images.transpose(0, 2, 3, 1)",
        ),
        (
            {"images": np.zeros((2, 32, 32, 4), np.uint8)},
            "images of shape (2, 32, 32, 4): corruptions need (N, H, W, C), C = 1 or 3",
        ),
        (
            {"images": [np.zeros((32, 32, 3), np.uint8), np.zeros((30, 32, 3), np.uint8)]},
            "images are no array: corruptions need uint8 (N, H, W, C), all of one size",
        ),
        ({"images": None}, "images of type object: corruptions need uint8, 0 to 255"),
        (
            {"images": np.zeros((1, 8, 8193, 1), np.uint8)},
            "images of shape (1, 8, 8193, 1): corruptions need sides of 8192 pixels or less",
        ),
        (
            {"images": np.zeros((2, 32, 7, 1), np.uint8)},
            "images of shape (2, 32, 7, 1): corruptions need a side of 8 pixels or more",
        ),
        (
            {"images": np.zeros((2, 7, 7, 1), np.uint8)},
            "images of shape (2, 7, 7, 1): corruptions need a side of 8 pixels or more",
        ),
        ({"constants": "cifar10"}, "unknown constants 'cifar10': did you mean 'cifar'?"),
        ({"index": [1, 2, 3]}, "index: int64 of shape (3,) for 2 images: needs one integer each"),
        ({"index": [-1, 1]}, "index: -1: the numbers of images are from 0 to 2**63 - 1"),
        (
            {"index": np.array([1, 2**63], np.uint64)},
            "index: 9223372036854775808: the numbers of images are from 0 to 2**63 - 1",
        ),
        ({"index": [[1], [1, 2]]}, "index: no array: needs one integer each for 2 images"),
        ({"index": [0.0, 1.0]}, "index: float64 of shape (2,) for 2 images: needs one integer each"),
    ],
)
def test_refuses_in_one_line(change: dict[str, Any], line: str) -> None:
    arguments = {"images": np.zeros((2, 32, 32, 3), np.uint8), "name": "fog", "severity": 1, **change}
    with pytest.raises(UserError) as caught:
        corrupt(**arguments)
    assert str(caught.value) == line


@pytest.mark.parametrize("whole", [3, 3.0, np.float32(3), np.int64(3), np.uint8(3)])
def test_whole_numbers_may_have_any_type(whole: Any, images: np.ndarray) -> None:
    wanted = corrupt(images, "snow", 3, seed=3)
    np.testing.assert_array_equal(corrupt(images, "snow", whole, seed=whole), wanted)
    numbers = np.arange(len(images), dtype=">u8")
    np.testing.assert_array_equal(corrupt(images, "snow", whole, whole, numbers), wanted)


@pytest.mark.parametrize("seed", [-3, 2**70, -(2**70)])
def test_any_whole_number_is_a_seed(seed: int, images: np.ndarray) -> None:
    assert not np.array_equal(corrupt(images, "fog", 3, seed), corrupt(images, "fog", 3))


def test_no_image_is_no_error() -> None:
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog", 1).shape == (0, 32, 32, 3)
