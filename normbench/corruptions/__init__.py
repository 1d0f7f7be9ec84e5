"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), for images of any size, vectorised over images.

    from normbench.corruptions import corrupt
    noisy = corrupt(images, "gaussian_noise", severity=3, seed=0)

From the same random numbers they give the bytes of the reference (hendrycks/robustness @ 8190fe32,
ImageNet-C/create_c). The published arrays were drawn without a seed, so they are matched in distribution, not in bytes.

A corruption is a function under the decorator `registry.corruption`; docs/extending.md shows how to add one. `MAIN` and
`EXTRA` are those of the benchmark, and `NAMES` has all of this package. An import of this module imports no corruption:
that happens when one is first used, or when `NAMES` is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from normbench.corruptions import registry
from normbench.corruptions.constants import EXTRA, MAIN, SETS, SEVERITIES, set_for
from normbench.corruptions.operators import Bytes, colour, luma, steady_opencv
from normbench.corruptions.registry import Corruption
from normbench.system.errors import UserError, hint

if TYPE_CHECKING:
    import torch

    NAMES: tuple[str, ...]

__all__ = ["EXTRA", "MAIN", "NAMES", "check", "corrupt"]

Images = TypeVar("Images", Bytes, "torch.Tensor")

SMALLEST_SIDE, LARGEST_SIDE = 8, 8192  # pixels; fog needs a square map of the longer side
BLOCK = 3 << 16  # Values processed at a time (64 images of CIFAR-10), so that temporary arrays stay in the cache.

# This array is freed at once. From then on glibc keeps freed blocks of up to this size for the next temporary array.
# Otherwise it would return each block to the system, and the page faults of new blocks take as long as the arithmetic.
np.empty(30 << 20, np.uint8)


def __getattr__(name: str) -> Any:
    if name == "NAMES":
        return registry.names()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def corrupt(
    images: Images,
    name: str,
    severity: int,
    seed: int = 0,
    index: np.ndarray | list[int] | None = None,
    constants: str | None = None,
) -> Images:
    """Returns corrupted copies of `images`, uint8 (N, H, W, C), C = 1 or 3, sides from 8 to 8192; same shape and type.

    name: one of `NAMES`, or a reference to a corruption of the user's own, such as `my_corruptions/salt.py:salt`.
    severity: 1 to 5. index: (N,), the numbers of the images in their dataset, from 0; by default 0..N-1. Each result
    depends on its image, its number, the name of the corruption, `severity`, `seed` and `constants`, and on nothing
    else. constants: the benchmark that defines the severities, `cifar` (by default for images whose shorter side is
    below 48), `tiny_imagenet` (below 128) or `imagenet`.

    A torch tensor is (N, C, H, W) and so is its result, on the same device; it is computed on the CPU. Raises UserError
    for any other argument.
    """
    change: Callable[..., Any] = _corrupt_tensor if _is_tensor(images) else _corrupt_array
    return change(images, name, severity, seed, index, constants)


def _is_tensor(images: Any) -> bool:
    """Whether the images are a torch tensor, without importing torch."""
    return "torch" in sys.modules and isinstance(images, sys.modules["torch"].Tensor)


def _corrupt_tensor(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
    import torch

    if images.layout is not torch.strided or images.is_meta:
        kind = "a meta tensor, which has no values" if images.is_meta else f"a tensor of layout {images.layout}"
        raise UserError(f"images are {kind}: corruptions need a dense tensor")
    _check_images(images, channels_first=True)
    result = _corrupt_array(images.cpu().permute(0, 2, 3, 1).numpy(), *arguments)
    return torch.empty_like(images).copy_(torch.from_numpy(result).permute(0, 3, 1, 2))


def _corrupt_array(images: Bytes, name: str, severity: int, seed: int, index: Any, constants: str | None) -> Bytes:
    images, severity, seed, numbers = check(images, name, severity, seed, index)
    if constants is not None and constants not in SETS:
        raise UserError(f"unknown constants '{constants}': {hint(constants, SETS)}")
    found = registry.get(name)
    values = found.constants[constants or set_for(*images.shape[1:3])][severity - 1]
    result = np.empty(images.shape, np.uint8)
    step = max(1, BLOCK // max(1, images[:1].size))
    with steady_opencv():
        for start in range(0, len(images), step):
            block = slice(start, start + step)
            given = np.ascontiguousarray(images[block])  # as OpenCV needs them
            result[block] = _corrupt_block(given, found, values, severity, seed, numbers[block])
    return result


def _corrupt_block(
    images: Bytes, found: Corruption, constants: Any, severity: int, seed: int, index: np.ndarray
) -> Bytes:
    grey = images.shape[3] == 1 and found.needs_colour
    if grey:
        images = colour(images)
    result = found.function(images, constants, *found.draw(images, constants, seed, severity, index))
    if result.dtype != np.uint8 or result.shape != images.shape:
        made = f"{result.dtype} of shape {result.shape}"
        raise UserError(f"corruption '{found.name}' made {made}: needs uint8 of shape {images.shape}")
    return luma(result) if grey else result


def check(images: Any, name: str, severity: Any, seed: Any, index: Any) -> tuple[Bytes, int, int, np.ndarray]:
    """Returns the arguments of `corrupt` in their exact types: images as an array, severity, seed, numbers of images.

    Whole numbers may be of any type, 3.0 included. Raises UserError if an argument is not valid.
    """
    registry.get(name)
    level = _whole(severity)
    if level not in SEVERITIES:
        raise UserError(f"severity {severity!r} of '{name}': valid: 1, 2, 3, 4, 5")
    start = _whole(seed)
    if start is None:
        raise UserError(f"seed {seed!r}: needs a whole number")
    try:
        images = np.asarray(images)
    except (TypeError, ValueError):  # a list of arrays of different shapes, or of tensors elsewhere
        raise UserError("images are no array: corruptions need uint8 (N, H, W, C), all of one size") from None
    _check_images(images)
    return images, level, start, _numbers(index, len(images))


def _whole(value: Any) -> int | None:
    """A whole number of any type as an int; None for anything else, and for booleans."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return int(value) if value == value // 1 else None


def _numbers(index: Any, count: int) -> np.ndarray:
    """The numbers of `count` images, int64 (count,)."""
    if index is None:
        return np.arange(count)
    try:
        numbers = np.asarray(index)
    except (TypeError, ValueError):
        raise UserError(f"index: no array: needs one integer each for {count} images") from None
    if numbers.shape != (count,) or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UserError(f"index: {numbers.dtype} of shape {numbers.shape} for {count} images: needs one integer each")
    wrong = numbers[(numbers < 0) | (numbers > np.int64(2**63 - 1))] if numbers.size else numbers
    if len(wrong):
        raise UserError(f"index: {wrong[0]}: the numbers of images are from 0 to 2**63 - 1")
    return numbers.astype(np.int64)


def _check_images(images: Any, channels_first: bool = False) -> None:
    kind, shape = str(images.dtype).removeprefix("torch."), tuple(images.shape)
    if kind != "uint8":
        advice = (
            "; values in 0..1 become that by (255 * images).round()" if kind.startswith(("float", "bfloat")) else ""
        )
        raise UserError(f"images of type {kind}: corruptions need uint8, 0 to 255{advice}")
    sides, channels = (shape[2:], shape[1:2]) if channels_first else (shape[1:3], shape[3:])
    if len(shape) != 4 or channels[0] not in (1, 3):
        layout = "(N, C, H, W)" if channels_first else "(N, H, W, C)"
        raise UserError(
            f"images of shape {shape}: corruptions need {layout}, C = 1 or 3{_advice(shape, channels_first)}"
        )
    if min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
        limit = (
            f"a side of {SMALLEST_SIDE} pixels or more"
            if min(sides) < SMALLEST_SIDE
            else f"sides of {LARGEST_SIDE} pixels or less"
        )
        raise UserError(f"images of shape {shape}: corruptions need {limit}")


def _advice(shape: tuple[int, ...], channels_first: bool) -> str:
    """What makes an array or a tensor of a wrong shape a right one, if that can be told."""
    place = 0 if channels_first else -1
    if len(shape) == 3 and shape[place] in (1, 3):
        return "; a single image is images[None]"
    if len(shape) == 3:
        return f"; grey images are images[{':, None' if channels_first else '..., None'}]"
    if len(shape) == 2:
        return f"; a single grey image is images[{'None, None' if channels_first else 'None, ..., None'}]"
    if len(shape) == 4 and shape[3 if channels_first else 1] in (1, 3):
        order = "images.permute(0, 3, 1, 2)" if channels_first else "images.transpose(0, 2, 3, 1)"
        return f"; what has them elsewhere is {order}"
    return ""
