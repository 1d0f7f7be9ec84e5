"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), for images of any size, vectorised over images.

    from normbench.corruptions import corrupt
    noisy = corrupt(images, "gaussian_noise", severity=3, seed=0)

Made to give the bytes of the reference (hendrycks/robustness @ 8190fe32, ImageNet-C/create_c/make_cifar_c.py) from the
same draws. The published arrays were drawn without a seed, so they are matched in distribution, not in bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from normbench.corruptions import blur, digital, noise, spatter, weather
from normbench.corruptions.constants import CIFAR, EXTRA, MAIN, SEVERITIES
from normbench.corruptions.draws import draw
from normbench.corruptions.operators import Bytes, colour, luma
from normbench.errors import UserError, hint

__all__ = ["MAIN", "NAMES", "check_names", "corrupt"]

FUNCTIONS: dict[str, Callable[..., Bytes]] = {
    function.__name__: function
    for function in (
        noise.gaussian_noise,
        noise.shot_noise,
        noise.impulse_noise,
        noise.speckle_noise,
        blur.gaussian_blur,
        blur.defocus_blur,
        blur.glass_blur,
        blur.motion_blur,
        blur.zoom_blur,
        weather.fog,
        weather.snow,
        spatter.spatter,
        digital.brightness,
        digital.saturate,
        digital.contrast,
        digital.jpeg_compression,
        digital.pixelate,
        digital.elastic_transform,
    )
}

NAMES = tuple(name for name in MAIN + EXTRA if name in FUNCTIONS)

# These work on colours. A grey image is corrupted as the RGB image of three equal channels, and its luma is kept.
NEEDS_COLOUR = frozenset({"brightness", "saturate", "snow", "spatter"})

SMALLEST_SIDE = 8
BLOCK = 3 << 16  # values worked on at a time (64 images of CIFAR-10): temporaries that stay in the cache


def corrupt(
    images: Bytes, name: str, severity: int, seed: int = 0, index: np.ndarray | list[int] | None = None
) -> Bytes:
    """Corrupted copies of `images`, uint8 (N, H, H, C), C = 1 or 3, H >= 8; same shape and type.

    `name` is one of `NAMES`, `severity` 1 to 5. `index` (N,) are the images' numbers in their dataset (default 0..N-1):
    each result depends on its image, `name`, `severity`, `seed` and its number alone. UserError on anything else.
    """
    check_names([name])
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity!r} of '{name}': valid: 1, 2, 3, 4, 5")
    images = np.asarray(images)
    _check_images(images)
    numbers = np.arange(len(images)) if index is None else np.asarray(index)
    if numbers.shape != (len(images),) or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UserError(
            f"index: {numbers.dtype} of shape {numbers.shape} for {len(images)} images: needs one integer each"
        )

    result = np.empty_like(images)
    step = max(1, BLOCK // max(1, images[:1].size))
    for start in range(0, len(images), step):
        block = slice(start, start + step)
        result[block] = _corrupt_block(images[block], name, int(severity), seed, numbers[block])
    return result


def _corrupt_block(images: Bytes, name: str, severity: int, seed: int, index: np.ndarray) -> Bytes:
    grey = images.shape[3] == 1 and name in NEEDS_COLOUR
    if grey:
        images = colour(images)
    constants = CIFAR[name][severity - 1]
    result = FUNCTIONS[name](images, constants, *draw(name, images, constants, seed, severity, index))
    return luma(result) if grey else result


def check_names(names: list[str]) -> None:
    """UserError where one of the names is not a corruption."""
    for name in names:
        if name not in FUNCTIONS:
            raise UserError(f"unknown corruption '{name}': {hint(name, NAMES, limit=len(NAMES))}")


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise UserError(f"images of type {images.dtype}: corruptions need uint8, 0 to 255")
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.shape[1] != images.shape[2]:
        raise UserError(f"images of shape {images.shape}: corruptions need (N, H, H, C), square, C = 1 or 3")
    if images.shape[1] < SMALLEST_SIDE:
        raise UserError(f"images of shape {images.shape}: corruptions need a side of {SMALLEST_SIDE} pixels or more")
