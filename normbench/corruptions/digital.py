"""Digital: brightness, saturation, contrast, JPEG, pixelation, elastic deformation.

Each function takes images uint8 (N, H, H, C), the constants of one severity (see constants.py) and its draws, if any
(see draws.py), and gives images of the same shape. Brightness and saturation take RGB only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.corruptions.operators import (
    UNIT,
    Bytes,
    Floats,
    Real,
    Singles,
    gaussian,
    near_a_level,
    quantise,
    single_unit,
    unit,
)

Places = NDArray[np.intp]


def brightness(images: Bytes, amount: float) -> Bytes:
    return _by_hsv(images, UNIT, np.clip(UNIT + amount, 0, 1), lambda saturation: saturation)


def saturate(images: Bytes, constants: tuple[float, float]) -> Bytes:
    factor, summand = constants
    return _by_hsv(images, UNIT, UNIT, lambda saturation: np.clip(saturation * factor + summand, 0, 1))


def _by_hsv(images: Bytes, values: Floats, new_values: Floats, change: Callable[[Floats], Floats]) -> Bytes:
    """RGB images by way of hue, saturation and value: `values` of the grey levels become `new_values`.

    `change` is that of the saturation. Of two largest channels the later decides the hue. The largest and the smallest
    channel depend on nothing else than the two: they are tabulated, and only the middle one is computed for each pixel.
    """
    red, green, blue = (np.ascontiguousarray(images[..., i]) for i in range(3))
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    delta_table, saturation_table, low_table = _hsv_tables(values, new_values, change)
    pair = largest.astype(np.intp)
    pair <<= 8
    pair |= smallest
    delta = delta_table.take(pair)  # 1 for a grey
    saturation = saturation_table.take(pair)
    # The hue in sixths: an even number and the difference of the two channels after the largest one.
    blue_first, green_first = blue == largest, green == largest
    first = np.where(blue_first, red, np.where(green_first, blue, green))
    second = np.where(blue_first, green, np.where(green_first, red, blue))
    sixth = values.take(first)
    sixth -= values.take(second)
    sixth /= delta
    sixth += np.where(blue_first, 4.0, np.where(green_first, 2.0, 0.0))
    hue = sixth
    hue /= 6
    hue += hue < 0
    hue[largest == smallest] = 0
    hue *= 6
    sector = hue.astype(np.uint8)
    rest = hue
    rest -= sector
    rising = (sector & 1) == 0
    np.subtract(1, rest, out=rest, where=rising)
    rest *= saturation
    np.subtract(1, rest, out=rest)
    rest *= new_values.take(largest)
    middle = quantise(rest)
    high, low = quantise(new_values).take(largest), low_table.take(pair)
    result = np.empty_like(images)
    for channel, (high_in, low_in) in enumerate(_SECTORS):
        result[..., channel] = np.where(high_in.take(sector), high, np.where(low_in.take(sector), low, middle))
    return result


# For red, green and blue: whether each sixth of the hues has the largest value there, and whether the smallest.
_SECTORS = [
    (np.array([sixth in high for sixth in range(6)]), np.array([sixth in low for sixth in range(6)]))
    for high, low in (((0, 5), (2, 3)), ((1, 2), (4, 5)), ((3, 4), (0, 1)))
]


def _hsv_tables(values: Floats, new_values: Floats, change: Callable[[Floats], Floats]) -> tuple[Floats, Floats, Bytes]:
    """Of the largest channel * 256 + the smallest: their difference, the new saturation, the new smallest channel."""
    delta = values[:, None] - values
    grey = delta <= 0
    saturation = change(np.where(grey, 0, delta / np.where(values == 0, 1, values)[:, None]))
    low = quantise(new_values[:, None] * (1 - saturation))
    return np.where(grey, 1, delta).ravel(), saturation.ravel(), low.ravel()


def contrast(images: Bytes, factor: float) -> Bytes:
    values = unit(images)
    mean = values.mean(axis=(1, 2), keepdims=True)
    return quantise((values - mean) * factor + mean)


def jpeg_compression(images: Bytes, quality: int) -> Bytes:
    """libjpeg-turbo's encoder and decoder (4:2:0, standard tables), whose bytes are those of Pillow, the reference.

    Through OpenCV, whose calls take a quarter of the time of Pillow's. Grey is coded as grey, which gives what grey RGB
    would.
    """
    import cv2

    result = np.empty_like(images)
    colour = images.shape[3] == 3
    for image, target in zip(images, result, strict=True):
        # OpenCV's colours go from blue to red.
        _, code = cv2.imencode(".jpg", image[:, :, ::-1] if colour else image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
        assert decoded is not None
        target[:] = decoded[:, :, ::-1] if colour else decoded[:, :, None]
    return result


def pixelate(images: Bytes, side: float) -> Bytes:
    """Pillow's BOX resize to int(H * side) pixels and back."""
    size = images.shape[1]
    return _box(_box(images, int(size * side)), size)


def _box(images: Bytes, size: int) -> Bytes:
    """Pillow's BOX resize to `size`, where a pixel is the mean of a block: columns, then rows, in bytes."""
    first, last = _blocks(images.shape[1], size)
    most = (last - first).max()
    factors = ((1 << 22) / (last - first) + 0.5).astype(np.uint32)  # Pillow's weights have 22 bits
    for axis in (2, 1):
        if most == 1:
            images = np.take(images, first, axis)
        elif most == 2:
            total = np.take(images, first, axis).astype(np.uint16)
            total += np.take(images, last - 1, axis)
            total += 1
            images = (total >> 1).astype(np.uint8)
        else:
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
    right, below = ((length * smoothed).astype(np.float32) for smoothed in (_smooth(u, sigma) for u in (across, down)))
    values = _affine(single_unit(np.ascontiguousarray(images.transpose(3, 0, 1, 2))), moves)
    grid = np.arange(size, dtype=np.float64)
    taps = _taps(size, grid[:, None] + below, grid + right, _half_sample)
    result = _bilinear(values, taps)
    # The reference's second map is in double precision: where that decides the byte, here too.
    open_ = near_a_level(result * 255, 12)
    open_ = open_[result.reshape(-1)[open_] > 0]  # zero is exact
    if len(open_):
        flat, total = values.reshape(len(values), -1), np.zeros(len(open_))
        channel, pixel = np.divmod(open_, flat.shape[1])
        for place, weight in taps:
            total += flat[channel, place.reshape(-1)[pixel]] * weight.reshape(-1)[pixel]
        result.reshape(-1)[open_] = total
    return quantise(result).transpose(1, 2, 3, 0)


def _smooth(fields: Floats, sigma: float) -> Floats:
    """`gaussian` of (N, H, H), three sigma far; for small sides as products of matrices, image by image."""
    size = fields.shape[1]
    if size > 64:
        return gaussian(fields, sigma, "symmetric", 3)
    matrix = _smoothing(size, sigma)
    return matrix @ fields @ matrix.T


@functools.lru_cache(maxsize=8)
def _smoothing(size: int, sigma: float) -> Floats:
    """What `gaussian` multiplies a column of pixels with."""
    columns = np.eye(size)[:, :, None].repeat(size, axis=2)  # each constant along its rows
    return np.ascontiguousarray(gaussian(columns, sigma, "symmetric", 3)[:, :, 0].T)


def _affine(values: Singles, moves: Singles) -> Singles:
    """The affine map that moves three corners of a square, bilinear, as OpenCV 4.11: positions in 1/32 pixel."""
    size = values.shape[2]
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
    return _bilinear(values, _taps(size, rows, columns, _whole_sample))


def _positions(size: int, by_column: Floats, by_row: Floats, offset: Floats) -> Singles:
    """by_column * x + by_row * y + offset, each (N,), for all pixels: (N, size, size), as OpenCV rounds it."""
    step = np.arange(size)
    along = np.rint(1024 * by_column[:, None] * step).astype(np.float32)
    down = np.rint(1024 * (by_row[:, None] * step + offset[:, None])).astype(np.float32)
    positions = (down + 16)[:, :, None] + along[:, None, :]  # whole numbers, exact in single precision
    positions /= 32
    np.floor(positions, out=positions)
    positions /= 32
    return positions


def _whole_sample(index: Places, size: int) -> Places:
    """c b | a b c: mirrored at the outer pixels."""
    index = index % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _half_sample(index: Places, size: int) -> Places:
    """b a | a b c: mirrored at the edge."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _bilinear(values: Singles, taps: list[tuple[Places, NDArray]]) -> Singles:
    """`values` (C, N, H, H) at other places: the sum of its taps (see `_taps`)."""
    flat = values.reshape(len(values), -1)
    result = np.zeros(values.shape, np.float32)
    for place, weight in taps:
        tap = flat.take(place, axis=1)
        tap *= weight.astype(np.float32, copy=False)
        result += tap
    return result


def _taps(
    size: int, rows: NDArray[Real], columns: NDArray[Real], border: Callable[[Places, int], Places]
) -> list[tuple[Places, NDArray[Real]]]:
    """The four pixels around each place, as flat indices into (N, H, H), and their weights.

    `rows`, `columns`: (N, H, H). `border` maps outer indices.
    """
    (y, below), (x, right) = (_parts(places, size, border) for places in (rows, columns))
    first = (np.arange(len(rows)) * (size * size))[:, None, None]
    y = [first + place * size for place in y]
    return [
        (row + column, row_weight * weight)
        for row, row_weight in zip(y, (1 - below, below), strict=True)
        for column, weight in zip(x, (1 - right, right), strict=True)
    ]


def _parts(
    places: NDArray[Real], size: int, border: Callable[[Places, int], Places]
) -> tuple[list[Places], NDArray[Real]]:
    """The pixels before and after each place, as the border maps them, and how far it is beyond the first."""
    before = np.floor(places)
    number = before.astype(np.intp)
    lowest = int(number.min(initial=0))
    table = border(np.arange(lowest, int(number.max(initial=0)) + 2), size)
    number -= lowest
    return [table.take(number), table[1:].take(number)], places - before
