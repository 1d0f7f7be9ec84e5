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
from normbench.corruptions.operators import Bytes, colour, luma
from normbench.corruptions.registry import Corruption
from normbench.system.errors import UserError, hint

if TYPE_CHECKING:
    import torch

    NAMES: tuple[str, ...]

__all__ = ["EXTRA", "MAIN", "NAMES", "check", "corrupt"]

Images = TypeVar("Images", Bytes, "torch.Tensor")

SMALLEST_SIDE = 8  # pixels
BLOCK = 3 << 15  # Values processed at a time (32 images of CIFAR-10), so that temporary arrays stay in the cache.

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
    """Returns corrupted copies of `images`, uint8 (N, H, H, C), C = 1 or 3, H >= 8; same shape and type.

    name: one of `NAMES`, or a reference to a corruption of the user's own, such as `my_corruptions/salt.py:salt`.
    severity: 1 to 5. index: (N,), the numbers of the images in their dataset; by default 0..N-1. Each result depends on
    its image, its number, the name of the corruption, `severity`, `seed` and `constants`, and on nothing else.
    constants: the benchmark that defines the severities, `cifar` (by default for sides below 48), `tiny_imagenet`
    (below 128) or `imagenet`.

    A torch tensor is (N, C, H, H) and so is its result, on the same device; it is computed on the CPU. Raises UserError
    for any other argument.
    """
    change: Callable[..., Any] = _corrupt_tensor if _is_tensor(images) else _corrupt_array
    return change(images, name, severity, seed, index, constants)


def _is_tensor(images: Any) -> bool:
    """Whether the images are a torch tensor, without importing torch."""
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
    found = registry.get(name)
    values = found.constants[constants or set_for(images.shape[1])][severity - 1]
    result = np.empty_like(images)
    step = max(1, BLOCK // max(1, images[:1].size))
    for start in range(0, len(images), step):
        block = slice(start, start + step)
        result[block] = _corrupt_block(images[block], found, values, int(severity), seed, numbers[block])
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


def check(images: Bytes, name: str, severity: int, index: np.ndarray | list[int] | None) -> np.ndarray:
    """Returns the numbers of the images, integers (N,). Raises UserError if an argument is not valid for `corrupt`."""
    registry.get(name)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity!r} of '{name}': valid: 1, 2, 3, 4, 5")
    _check_images(images)
    numbers = np.arange(len(images)) if index is None else np.asarray(index)
    if numbers.shape != (len(images),) or (numbers.size and numbers.dtype.kind not in "iu"):
        raise UserError(
            f"index: {numbers.dtype} of shape {numbers.shape} for {len(images)} images: needs one integer each"
        )
    return numbers


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
