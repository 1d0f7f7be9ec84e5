"""What `corrupt` refuses, each in one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normbench.corruptions import corrupt
from normbench.system.errors import UserError


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "gausian_noise"}, "unknown corruption 'gausian_noise': did you mean 'gaussian_noise'?"),
        ({"severity": 0}, "severity 0 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": 6}, "severity 6 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"images": np.zeros((2, 32, 32, 3))}, "images of type float64: corruptions need uint8, 0 to 255"),
        (
            {"images": np.zeros((32, 32, 3), np.uint8)},
            "images of shape (32, 32, 3): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 32, 30, 3), np.uint8)},
            "images of shape (2, 32, 30, 3): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 3, 32, 32), np.uint8)},
            "images of shape (2, 3, 32, 32): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 7, 7, 1), np.uint8)},
            "images of shape (2, 7, 7, 1): corruptions need a side of 8 pixels or more",
        ),
        ({"constants": "cifar10"}, "unknown constants 'cifar10': did you mean 'cifar'?"),
        ({"index": [1, 2, 3]}, "index: int64 of shape (3,) for 2 images: needs one integer each"),
        ({"index": [0.0, 1.0]}, "index: float64 of shape (2,) for 2 images: needs one integer each"),
    ],
)
def test_refuses_in_one_line(change: dict[str, Any], line: str) -> None:
    arguments = {"images": np.zeros((2, 32, 32, 3), np.uint8), "name": "fog", "severity": 1, **change}
    with pytest.raises(UserError) as caught:
        corrupt(**arguments)
    assert str(caught.value) == line


def test_no_image_is_no_error() -> None:
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog", 1).shape == (0, 32, 32, 3)
