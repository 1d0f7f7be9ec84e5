"""Frost: a crop of one of five photographs of frost, added to the image.

The photographs are those of hendrycks/robustness @ 8190fe32, which the package imagecorruptions 1.1.2 carries; a sixth
is never used, as in the reference. The package is not imported, as its import fails without pkg_resources.
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

from normbench.corruptions.operators import Bytes
from normbench.system.errors import UserError

PACKAGE = "imagecorruptions"
TEXTURES = {  # file: sha256
    "frost1.png": "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "frost2.png": "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "frost3.png": "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "frost4.jpg": "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "frost5.jpg": "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
}
ROOM = 1.1  # of an enlarged texture: its shorter side, in sides of the images


def frost(images: Bytes, constants: tuple[float, float, float], crops: NDArray[np.int64]) -> Bytes:
    """RGB (N, H, H, 3). `crops`: (N, 3), which texture, and the first row and column of its crop."""
    share, strength, scale = constants
    size = images.shape[1]
    known = textures(scale, size)
    layer = np.stack([known[i][row : row + size, column : column + size] for i, row, column in crops.tolist()])
    return np.clip(share * images + strength * layer, 0, 255).astype(np.uint8)


@functools.cache
def textures(scale: float, size: int) -> tuple[Bytes, ...]:
    """The five textures (rows, columns, 3), made `scale` times as large, for images of side `size`.

    The reference fails where a texture is then not larger than the images: such a texture is made so large that its
    shorter side is 1.1 times theirs, as in imagecorruptions. UserError where a file is missing or altered.
    """
    result = []
    for texture in _originals():
        shorter = min(texture.shape[:2])
        fitting = scale if round(shorter * scale) > size else ROOM * size / shorter
        result.append(_resized(texture, fitting))
    return tuple(result)


@functools.cache
def _originals() -> tuple[Bytes, ...]:
    return tuple(_read(package_folder() / "frost" / name, wanted) for name, wanted in TEXTURES.items())


def package_folder() -> Path:
    """The folder of imagecorruptions, which is not imported. UserError where it is not installed."""
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
    """Bilinear, without smoothing first, in the integers of OpenCV 5.0: weights in 1/2048, sums cut twice."""
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
    """The two pixels of `size` that each pixel of round(size * scale) lies between, with their weights in 1/2048."""
    position = ((np.arange(round(size * scale)) + 0.5) * (1 / scale) - 0.5).astype(np.float32).clip(0, size - 1)
    low = np.floor(position)
    rest = position - low
    near, far = (np.rint(weight * 2048).astype(np.int64) for weight in (1 - rest, rest))
    index = low.astype(np.intp)
    return (index, near), (np.minimum(index + 1, size - 1), far)
