"""Frost: a crop of one of five photographs of frost, added to the image.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

The photographs are read from the installed package imagecorruptions 1.1.2, which includes those of
hendrycks/robustness. The sixth is never used, as in the reference. The package is not imported, because that fails
without pkg_resources.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.corruptions.draws import Draws, Stream, below
from normbench.corruptions.operators import Bytes
from normbench.corruptions.registry import corruption
from normbench.system.errors import UserError

PACKAGE = "imagecorruptions"
TEXTURES = {  # file: sha256
    "frost1.png": "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "frost2.png": "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "frost3.png": "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "frost4.jpg": "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "frost5.jpg": "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
}
ROOM = 1.1  # How much larger than the images a texture is that had to be enlarged.


def _frost_crops(stream: Stream, images: Bytes, constants: tuple[float, float, float]) -> Draws:
    size = images.shape[1:3]
    known = textures(constants[2], *size)
    random = stream.bits(3)
    number = below(random[:, :1], len(known))
    room = np.array([texture.shape[:2] for texture in known]) - size
    return (np.concatenate([number, below(random[:, 1:], room[number[:, 0]])], axis=1),)


# Factor of the image, factor of the texture, scale of the texture.
@corruption(
    constants={
        "cifar": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
        "tiny_imagenet": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        "imagenet": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    },
    draws=_frost_crops,
    needs_colour=True,
)
def frost(images: Bytes, constants: tuple[float, float, float], crops: NDArray[np.int64]) -> Bytes:
    """A weighted sum of the image and a crop of a texture; RGB (N, H, W, 3).

    crops: (N, 3), the number of the texture (see `textures`), and the first row and column of the crop.
    """
    share, strength, scale = constants
    height, width = images.shape[1:3]
    known = textures(scale, height, width)
    layer = np.stack([known[i][row : row + height, column : column + width] for i, row, column in crops.tolist()])
    return np.clip(share * images + strength * layer, 0, 255).astype(np.uint8)


@functools.cache
def textures(scale: float, height: int, width: int) -> tuple[Bytes, ...]:
    """Returns the five textures, uint8 (rows, columns, 3), scaled by `scale`, for images of a size in pixels.

    The reference fails if a scaled texture is not larger than the images. Here such a texture is scaled until both of
    its sides are at least 1.1 times theirs, as in imagecorruptions. Raises UserError if a file is missing or altered.
    """
    result = []
    for texture in _originals():
        sides = [*zip(texture.shape[:2], (height, width), strict=True)]
        large = all(round(side * scale) > least for side, least in sides)
        fitting = scale if large else max(ROOM * least / side for side, least in sides)
        result.append(_resized(texture, fitting))
    return tuple(result)


@functools.cache
def _originals() -> tuple[Bytes, ...]:
    return tuple(_read(package_folder() / "frost" / name, wanted) for name, wanted in TEXTURES.items())


def package_folder() -> Path:
    """Returns the folder of imagecorruptions without importing it. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {PACKAGE} is not installed")
    return Path(spec.submodule_search_locations[0])


def _read(path: Path, wanted: str) -> Bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"frost: {path}: no such file; {PACKAGE} 1.1.2 has it") from None
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise UserError(f"frost: {path}: sha256 {found[:8]}..., but that of {PACKAGE} 1.1.2 is {wanted[:8]}...")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _resized(texture: Bytes, scale: float) -> Bytes:
    """Bilinear scaling without smoothing, in OpenCV 5.0's integer arithmetic: weights in 1/2048, two truncations."""
    if scale == 1:
        return texture
    top, below = _taps(texture.shape[0], scale)
    left, right = _taps(texture.shape[1], scale)
    first, second = (np.take(texture, index, 1) * weight[:, None] for index, weight in (left, right))
    rows = (first + second) >> 4
    first, second = (np.take(rows, index, 0) * weight[:, None, None] >> 16 for index, weight in (top, below))
    return ((first + second + 2) >> 2).astype(np.uint8)


Taps = tuple[NDArray[np.intp], NDArray[np.int64]]


def _taps(size: int, scale: float) -> tuple[Taps, Taps]:
    """Returns, for each of the round(size * scale) new pixels, the two old pixels around it with weights in 1/2048."""
    position = ((np.arange(round(size * scale)) + 0.5) * (1 / scale) - 0.5).astype(np.float32).clip(0, size - 1)
    low = np.floor(position)
    rest = position - low
    near, far = (np.rint(weight * 2048).astype(np.int64) for weight in (1 - rest, rest))
    index = low.astype(np.intp)
    return (index, near), (np.minimum(index + 1, size - 1), far)
