"""Digital: brightness, saturation, contrast, JPEG, pixelation, elastic deformation.

Each function takes images uint8 (N, H, H, C), the constants of one severity (see constants.py) and its draws, if any
(see draws.py), and gives images of the same shape. Brightness and saturation take RGB only.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.corruptions.operators import Bytes, Floats, Singles, gaussian, quantise, unit


def brightness(images: Bytes, amount: float) -> Bytes:
    hue, saturation, value = _hsv(unit(images))
    return quantise(_rgb(hue, saturation, np.clip(value + amount, 0, 1)))


def saturate(images: Bytes, constants: tuple[float, float]) -> Bytes:
    factor, summand = constants
    hue, saturation, value = _hsv(unit(images))
    return quantise(_rgb(hue, np.clip(saturation * factor + summand, 0, 1), value))


def _hsv(values: Floats) -> tuple[Floats, Floats, Floats]:
    """RGB (..., 3) as hue, saturation and value, each in 0..1. Of two largest channels the later decides."""
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    value = np.maximum(np.maximum(red, green), blue)
    delta = value - np.minimum(np.minimum(red, green), blue)
    grey = delta == 0
    safe = np.where(grey, 1, delta)
    sixth = np.where(
        blue == value,
        4 + (red - green) / safe,
        np.where(green == value, 2 + (blue - red) / safe, (green - blue) / safe),
    )
    hue = np.where(grey, 0, sixth / 6 % 1)
    saturation = np.where(grey, 0, delta / np.where(grey, 1, value))
    return hue, saturation, value


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    sector = np.floor(hue * 6)
    rest = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - rest * saturation)
    rising = value * (1 - (1 - rest) * saturation)
    sector = sector.astype(np.intp) % 6
    red = np.choose(sector, (value, falling, low, low, rising, value))
    green = np.choose(sector, (rising, value, value, falling, low, low))
    blue = np.choose(sector, (low, low, rising, value, value, falling))
    return np.stack((red, green, blue), axis=-1)


def contrast(images: Bytes, factor: float) -> Bytes:
    values = unit(images)
    mean = values.mean(axis=(1, 2), keepdims=True)
    return quantise((values - mean) * factor + mean)


def jpeg_compression(images: Bytes, quality: int) -> Bytes:
    """Pillow's encoder and decoder (4:2:0, standard tables). Grey is coded as grey, which gives what grey RGB would."""
    result = np.empty_like(images)
    for image, target in zip(images, result, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        target[:] = np.asarray(Image.open(file)).reshape(target.shape)
    return result


def pixelate(images: Bytes, side: float) -> Bytes:
    """Pillow's BOX resize to int(H * side) pixels and back."""
    size = images.shape[1]
    return _box(_box(images, int(size * side)), size)


def _box(images: Bytes, size: int) -> Bytes:
    """Pillow's BOX resize to `size`, where a pixel is the mean of a block: columns, then rows, in bytes."""
    first, last = _blocks(images.shape[1], size)
    factors = ((1 << 22) / (last - first) + 0.5).astype(np.uint32)  # Pillow's weights have 22 bits
    for axis in (2, 1):
        shape = [1, 1, 1, 1]
        shape[axis] = size
        sums = np.insert(images.cumsum(axis, dtype=np.uint32), 0, 0, axis)
        totals = np.take(sums, last, axis) - np.take(sums, first, axis)
        images = ((totals * factors.reshape(shape) + (1 << 21)) >> 22).astype(np.uint8)
    return images


@functools.cache
def _blocks(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel of `size` in each of `wanted`, and the first one after it, each (wanted,).

    Pillow is asked, with unit vectors: where an edge falls on a pixel's centre, its rounding decides.
    """
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    inside = np.asarray(units.resize((wanted, size), Image.Resampling.BOX)) > 0
    return inside.argmax(axis=0), size - inside[::-1].argmax(axis=0)


def elastic_transform(
    images: Bytes, constants: tuple[float, float, float], moves: Singles, across: Floats, down: Floats
) -> Bytes:
    """An affine map that moves three points, then a smooth random displacement, both bilinear.

    `moves`: (N, 3, 2), the moves of the points in pixels, last axis (x, y). `across`, `down`: (N, H, H) in -1..1.
    """
    size = images.shape[1]
    length, sigma = (constant * size for constant in constants[:2])
    right, below = ((length * gaussian(u, sigma, "symmetric", 3)).astype(np.float32) for u in (across, down))
    rows, columns = np.mgrid[:size, :size]
    values = _affine(unit(images).astype(np.float32), moves)
    return quantise(_bilinear(values, rows + below, columns + right, _half_sample).astype(np.float32))


def _affine(values: Singles, moves: Singles) -> Singles:
    """The affine map that moves three corners of a square, bilinear, as OpenCV 4.11: positions in 1/32 pixel."""
    size = values.shape[1]
    far, near = size // 2 + size // 3, size // 2 - size // 3
    points = np.array([(far, far), (far, near), (near, near)], np.float32) + moves
    corner, above, left = points.astype(np.float64).transpose(1, 2, 0)  # each (2, N): x, y
    # Old (x, y) goes to (a x + b y + c, d x + e y + f); the inverse says where each new pixel comes from.
    a, d = (above - left) / (far - near)
    b, e = (corner - above) / (far - near)
    c, f = corner - far * np.stack((a + b, d + e))
    scale = 1 / (a * e - b * d)
    columns = _positions(size, e * scale, -b * scale, (b * f - e * c) * scale)
    rows = _positions(size, -d * scale, a * scale, (d * c - a * f) * scale)
    return _bilinear(values, rows, columns, _whole_sample)


def _positions(size: int, by_column: Floats, by_row: Floats, offset: Floats) -> Singles:
    """by_column * x + by_row * y + offset, each (N,), for all pixels: (N, size, size), as OpenCV rounds it."""
    step = np.arange(size)
    along = np.rint(1024 * by_column[:, None] * step)
    down = np.rint(1024 * (by_row[:, None] * step + offset[:, None]))
    return (np.floor((down[:, :, None] + along[:, None, :] + 16) / 32) / 32).astype(np.float32)


def _whole_sample(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """c b | a b c: mirrored at the outer pixels."""
    index = index % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _half_sample(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """b a | a b c: mirrored at the edge."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _bilinear(values: Singles, rows: NDArray, columns: NDArray, border: Callable[..., NDArray[np.intp]]) -> NDArray:
    """`values` (N, H, H, C) at `rows`, `columns` (N, H, H), in the precision of these; `border` maps outer indices."""
    size = values.shape[1]
    number = np.arange(len(values))[:, None, None]
    top, left = np.floor(rows), np.floor(columns)
    below, right = rows - top, columns - left
    beside = [(border(left.astype(np.intp) + i, size), weight) for i, weight in enumerate((1 - right, right))]
    result = np.zeros(values.shape, rows.dtype)
    for i, row_weight in enumerate((1 - below, below)):
        y = border(top.astype(np.intp) + i, size)
        for x, column_weight in beside:
            result += values[number, y, x] * (row_weight * column_weight)[..., None]
    return result
