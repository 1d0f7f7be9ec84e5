"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), for images of any size, vectorised over images.

    from normbench.corruptions import corrupt
    noisy = corrupt(images, "gaussian_noise", severity=3, seed=0)

Made to give the bytes of the reference (hendrycks/robustness @ 8190fe32, ImageNet-C/create_c) from the same draws. The
published arrays were drawn without a seed, so they are matched in distribution, not in bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from normbench.corruptions import blur, digital, frost, noise, spatter, weather
from normbench.corruptions.constants import EXTRA, MAIN, SETS, SEVERITIES, set_for
from normbench.corruptions.draws import draw
from normbench.corruptions.operators import Bytes, colour, luma
from normbench.system.errors import UserError, hint

if TYPE_CHECKING:
    import torch

__all__ = ["MAIN", "NAMES", "check", "check_names", "corrupt"]

Images = TypeVar("Images", Bytes, "torch.Tensor")

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
        frost.frost,
        spatter.spatter,
        digital.brightness,
        digital.saturate,
        digital.contrast,
        digital.jpeg_compression,
        digital.pixelate,
        digital.elastic_transform,
    )
}

NAMES = MAIN + EXTRA

# These work on colours. A grey image is corrupted as the RGB image of three equal channels, and its luma is kept.
NEEDS_COLOUR = frozenset({"brightness", "saturate", "snow", "frost", "spatter"})

SMALLEST_SIDE = 8
BLOCK = 3 << 15  # values worked on at a time (32 images of CIFAR-10): temporaries that stay in the cache


# Allocated, never touched and freed at once: from then on glibc keeps what is freed, up to this size, for what comes
# next. It would give each temporary back to the system, whose fresh pages take as long as the arithmetic.
np.empty(30 << 20, np.uint8)


def corrupt(
    images: Images,
    name: str,
    severity: int,
    seed: int = 0,
    index: np.ndarray | list[int] | None = None,
    constants: str | None = None,
) -> Images:
    """Corrupted copies of `images`, uint8 (N, H, H, C), C = 1 or 3, H >= 8; same shape and type.

    `name` is one of `NAMES`, `severity` 1 to 5. `index` (N,) are the images' numbers in their dataset (default 0..N-1):
    each result depends on its image, `name`, `severity`, `seed`, its number and `constants` alone. `constants` says how
    much a severity is: `cifar` (default for sides below 48), `tiny_imagenet` (below 128) or `imagenet`. A torch tensor
    is (N, C, H, H), its result too, on the same device; it is computed on the CPU. UserError on anything else.
    """
    change: Callable[..., Any] = _corrupt_tensor if _is_tensor(images) else _corrupt_array
    return change(images, name, severity, seed, index, constants)


def _is_tensor(images: Any) -> bool:
    """Whether these are a torch tensor. Only who has imported torch can have one."""
    return "torch" in sys.modules and isinstance(images, sys.modules["torch"].Tensor)


def _corrupt_tensor(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
    import torch

    _check_images(images, channels_first=True)
    result = _corrupt_array(images.cpu().permute(0, 2, 3, 1).numpy(), *arguments)
    return torch.empty_like(images).copy_(torch.from_numpy(result).permute(0, 3, 1, 2))


def _corrupt_array(images: Bytes, name: str, severity: int, seed: int, index: Any, constants: str | None) -> Bytes:
    images = np.asarray(images)
    numbers = check(images, name, severity, index)
    if constants is not None and constants not in SETS:
        raise UserError(f"unknown constants '{constants}': {hint(constants, SETS)}")
    values = SETS[constants or set_for(images.shape[1])][name][severity - 1]
    result = np.empty_like(images)
    step = max(1, BLOCK // max(1, images[:1].size))
    for start in range(0, len(images), step):
        block = slice(start, start + step)
        result[block] = _corrupt_block(images[block], name, values, int(severity), seed, numbers[block])
    return result


def _corrupt_block(images: Bytes, name: str, constants: Any, severity: int, seed: int, index: np.ndarray) -> Bytes:
    grey = images.shape[3] == 1 and name in NEEDS_COLOUR
    if grey:
        images = colour(images)
    result = FUNCTIONS[name](images, constants, *draw(name, images, constants, seed, severity, index))
    return luma(result) if grey else result


def check(images: Bytes, name: str, severity: int, index: np.ndarray | list[int] | None) -> np.ndarray:
    """UserError where one of these is not as `corrupt` says; the images' numbers (N,)."""
    check_names([name])
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity!r} of '{name}': valid: 1, 2, 3, 4, 5")
    _check_images(images)
    numbers = np.arange(len(images)) if index is None else np.asarray(index)
    if numbers.shape != (len(images),) or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UserError(
            f"index: {numbers.dtype} of shape {numbers.shape} for {len(images)} images: needs one integer each"
        )
    return numbers


def check_names(names: list[str]) -> None:
    """UserError where one of the names is not a corruption."""
    for name in names:
        if name not in FUNCTIONS:
            raise UserError(f"unknown corruption '{name}': {hint(name, NAMES, limit=len(NAMES))}")


def _check_images(images: Any, channels_first: bool = False) -> None:
    kind, shape = str(images.dtype).removeprefix("torch."), tuple(images.shape)
    if kind != "uint8":
        raise UserError(f"images of type {kind}: corruptions need uint8, 0 to 255")
    sides, channels = (shape[2:], shape[1:2]) if channels_first else (shape[1:3], shape[3:])
    if len(shape) != 4 or sides[0] != sides[1] or channels[0] not in (1, 3):
        layout = "(N, C, H, H)" if channels_first else "(N, H, H, C)"
        raise UserError(f"images of shape {shape}: corruptions need {layout}, square, C = 1 or 3")
    if sides[0] < SMALLEST_SIDE:
        raise UserError(f"images of shape {shape}: corruptions need a side of {SMALLEST_SIDE} pixels or more")
