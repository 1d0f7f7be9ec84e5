"""Digital: brightness, saturation, contrast, JPEG, pixelation, elastic deformation.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261. Formulas and constants are those of hendrycks/robustness
@ 8190fe32 (Apache-2.0), ImageNet-C/create_c: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py.

Each function takes images uint8 (N, H, W, C), the constants of one severity and its random arrays, if any, and returns
new images of the same shape and type. Above each function stand its constants, severity 1 first, and their meaning.
Constants in pixels hold for every image size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normbench.corruptions.draws import Draws, Stream, uniform
from normbench.corruptions.operators import (
    DOUBLES,
    SINGLE_ROUNDING,
    UNIT,
    Bytes,
    Floats,
    Places,
    Real,
    Singles,
    as_images,
    as_planes,
    gaussian,
    gaussian_weights,
    plain,
    quantise,
    settled,
    single_unit,
    symmetric_sum,
    unit,
    windows_at,
)
from normbench.corruptions.registry import corruption


# What is added to the value of hue, saturation and value, in 0..1.
@corruption(
    constants={
        "cifar": (0.05, 0.1, 0.15, 0.2, 0.3),
        "tiny_imagenet": (0.1, 0.2, 0.3, 0.4, 0.5),
        "imagenet": (0.1, 0.2, 0.3, 0.4, 0.5),
    },
    needs_colour=True,
)
def brightness(images: Bytes, amount: float) -> Bytes:
    """Raises the value of each pixel at the same hue and saturation; RGB (N, H, W, 3)."""
    return _by_hsv(images, _hsv_tables(1, 0, amount))


# What the saturation is multiplied by, and what is then added to it.
@corruption(
    constants={
        "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        "tiny_imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
    needs_colour=True,
)
def saturate(images: Bytes, constants: tuple[float, float]) -> Bytes:
    """Changes the saturation of each pixel at the same hue and value; RGB (N, H, W, 3)."""
    return _by_hsv(images, _hsv_tables(*constants, 0))


def _by_hsv(images: Bytes, tables: HsvTables) -> Bytes:
    """Returns RGB images, changed in saturation and value.

    The new largest and smallest channels depend only on the old ones, so they are read from tables. The middle one lies
    between them as before, which is computed in single precision. Pixels of fewer than three levels, and those where
    rounding could change a byte, are computed by way of the hue.
    """
    planes = as_planes(images)
    red, green, blue = planes
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    middle = red ^ green ^ blue ^ largest ^ smallest
    pair = largest.astype(np.intp)
    pair <<= 8
    pair |= smallest
    levels = tables.slope.take(pair)
    levels *= largest - middle
    np.subtract(tables.levels.take(largest), levels, out=levels)
    distance = np.rint(levels)
    np.subtract(levels, distance, out=distance)
    open_ = np.abs(distance, out=distance) < 16 * SINGLE_ROUNDING
    open_ |= middle == largest
    open_ |= middle == smallest
    new, high, low = levels.astype(np.uint8), tables.high.take(largest), tables.low.take(pair)
    high ^= new
    low ^= new
    for plane in planes:
        upper, lower = plane == largest, plane == smallest
        plane[:] = new ^ (high * upper) ^ (low * lower)
    result = as_images(planes)
    places = np.flatnonzero(open_)
    result.reshape(-1, 3)[places] = _by_hue(images.reshape(-1, 3)[places], tables)
    return result


def _by_hue(images: Bytes, tables: HsvTables) -> Bytes:
    """Returns RGB pixels (..., 3), changed in saturation and value, in the reference's arithmetic.

    If two channels are the largest, the later one decides the hue.
    """
    red, green, blue = (np.ascontiguousarray(images[..., i]) for i in range(3))
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    pair = largest.astype(np.intp)
    pair <<= 8
    pair |= smallest
    delta = tables.delta.take(pair)  # 1 for a grey
    saturation = tables.saturation.take(pair)
    # The hue in sixths of the circle: 0, 2 or 4 by the largest channel, plus the scaled difference of the other two.
    blue_first, green_first = blue == largest, green == largest
    first = np.where(blue_first, red, np.where(green_first, blue, green))
    second = np.where(blue_first, green, np.where(green_first, red, blue))
    sixth = UNIT.take(first)
    sixth -= UNIT.take(second)
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
    rest *= tables.values.take(largest)
    middle = quantise(rest)
    high, low = tables.high.take(largest), tables.low.take(pair)
    result = np.empty_like(images)
    for channel, (high_in, low_in) in enumerate(_SECTORS):
        result[..., channel] = np.where(high_in.take(sector), high, np.where(low_in.take(sector), low, middle))
    return result


# For red, green and blue: whether each sixth of the hues has the largest value there, and whether the smallest.
_SECTORS = [
    (np.array([sixth in high for sixth in range(6)]), np.array([sixth in low for sixth in range(6)]))
    for high, low in (((0, 5), (2, 3)), ((1, 2), (4, 5)), ((3, 4), (0, 1)))
]


class HsvTables(NamedTuple):
    """Tables of what becomes of a pixel whose largest channel is L and whose smallest is S, as grey levels.

    levels, values: the new value in 0..255 and in 0..1, (256,), by L. high: the new largest channel, (256,), by L.
    delta, saturation, low: the old difference, the new saturation and the new smallest channel, (65536,), by 256 * L +
    S. A difference of 0 is stored as 1, because it is a divisor. slope: how much lower than the largest channel another
    one becomes, as a multiple of how much lower it was, (65536,).
    """

    levels: Singles
    values: Floats
    high: Bytes
    delta: Floats
    saturation: Floats
    low: Bytes
    slope: Singles


@functools.lru_cache(maxsize=8)
def _hsv_tables(factor: float, summand: float, amount: float) -> HsvTables:
    """The tables for a saturation of `factor` times the old one plus `summand`, and a value that is `amount` higher."""
    values = np.clip(UNIT + amount, 0, 1)
    delta = UNIT[:, None] - UNIT
    grey = delta <= 0
    saturation = np.where(grey, 0, delta / np.where(UNIT == 0, 1, UNIT)[:, None])
    saturation = np.clip(saturation * factor + summand, 0, 1)
    low = quantise(values[:, None] * (1 - saturation))
    divisor = np.where(grey, 1, delta)
    slope = (values[:, None] * saturation / divisor).astype(np.float32)
    levels = (255 * values).astype(np.float32)
    return HsvTables(levels, values, quantise(values), divisor.ravel(), saturation.ravel(), low.ravel(), slope.ravel())


# What the distance of each value from the mean of its channel is multiplied by.
@corruption(
    constants={
        "cifar": (0.75, 0.5, 0.4, 0.3, 0.15),
        "tiny_imagenet": (0.4, 0.3, 0.2, 0.1, 0.05),
        "imagenet": (0.4, 0.3, 0.2, 0.1, 0.05),
    },
)
def contrast(images: Bytes, factor: float) -> Bytes:
    """Moves each value towards the mean of its image and channel."""
    import cv2

    height, width, channels = images.shape[1:]
    mean = np.array([cv2.sumElems(image)[:channels] for image in images]).reshape(-1, 1, channels)
    mean /= 255 * height * width

    def table(mean: Floats) -> Floats:
        """What each grey level becomes in each image and channel, (N, 256, C)."""
        return (UNIT[:, None] - mean) * factor + mean

    # The reference's mean is rounded otherwise. It is used where that decides a byte.
    levels = table(mean) * 255
    open_ = (np.abs(levels - np.rint(levels)) < DOUBLES).any(axis=(1, 2))
    if open_.any():
        mean[open_] = unit(images[open_]).mean(axis=(1, 2))[:, None]
    result = np.empty_like(images)
    for image, changed, target in zip(plain(images), quantise(table(mean)), plain(result), strict=True):
        cv2.LUT(image, changed[None], dst=target)
    return result


# Quality of the JPEG, 1 to 100.
@corruption(
    constants={
        "cifar": (80, 65, 58, 50, 40),
        "tiny_imagenet": (65, 58, 50, 40, 25),
        "imagenet": (25, 18, 15, 10, 7),
    },
)
def jpeg_compression(images: Bytes, quality: int) -> Bytes:
    """Encoded as JPEG and decoded (4:2:0, standard tables).

    By OpenCV, whose libjpeg-turbo gives the bytes of Pillow, which the reference uses, in a quarter of the time. A grey
    image is encoded as grey, with the same result as grey RGB.
    """
    import cv2

    result = np.empty_like(images)
    colour = images.shape[3] == 3
    for image, target in zip(images, result, strict=True):
        # OpenCV's colours go from blue to red.
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
        _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
        if decoded is None:
            raise RuntimeError("OpenCV cannot decode its own JPEG")
        target[:] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) if colour else decoded[:, :, None]
    return result


# Sides of the small image, relative to those of the image.
@corruption(
    constants={
        "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
        "tiny_imagenet": (0.9, 0.8, 0.7, 0.6, 0.5),
        "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
    },
)
def pixelate(images: Bytes, side: float) -> Bytes:
    """Resizes to int(H * side) x int(W * side) pixels and back, like Pillow with the filter BOX."""
    height, width = images.shape[1:3]
    return _box(_box(images, int(height * side), int(width * side)), height, width)


def _box(images: Bytes, height: int, width: int) -> Bytes:
    """Resized as by Pillow's BOX: each new pixel is the mean of a block, rounded over columns, then rows."""
    if images.shape[1] > images.shape[2]:  # Pillow rounds over rows first in some such images, so it does them itself.
        result = np.empty((len(images), height, width, images.shape[3]), np.uint8)
        for image, target in zip(images, result, strict=True):
            picture = Image.fromarray(image if images.shape[3] == 3 else image[..., 0])
            resized = picture.resize((width, height), Image.Resampling.BOX)
            target[:] = np.asarray(resized).reshape(target.shape)
        return result
    for axis, size in ((2, width), (1, height)):
        first, last = _blocks(images.shape[axis], size)
        most = (last - first).max()
        if most == 1:
            images = np.take(images, first, axis)
        elif most == 2:
            total = np.take(images, first, axis).astype(np.uint16)
            total += np.take(images, last - 1, axis)
            total += 1
            images = (total >> 1).astype(np.uint8)
        elif axis == 1:
            images = _means(images, first, last)
        else:
            images = _turned(_means(_turned(images), first, last))
    return images


def _means(images: Bytes, first: Places, last: Places) -> Bytes:
    """Returns the means of blocks of rows, rounded like Pillow does; last: the first row after each block."""
    rows = images.astype(np.uint16)
    total = rows.take(first, axis=1)
    for row in range(1, (last - first).max()):
        inside = first + row < last
        total += rows.take(np.minimum(first + row, last - 1), axis=1) * inside[:, None, None].astype(np.uint16)
    factors = ((1 << 22) / (last - first) + 0.5).astype(np.uint32)  # Pillow's weights have 22 bits
    return ((total * factors[:, None, None] + (1 << 21)) >> 22).astype(np.uint8)


def _turned(images: Bytes) -> Bytes:
    """Images with rows in the place of columns, (N, W, H, C)."""
    import cv2

    return np.stack([cv2.transpose(image) for image in images]).reshape(len(images), *images.shape[2:0:-1], -1)


@functools.cache
def _blocks(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first pixel of `size` in each of `wanted` blocks, and the first one after it, each (wanted,).

    Pillow is asked, with unit vectors: if an edge falls on the centre of a pixel, its rounding decides.
    """
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    inside = np.asarray(units.resize((wanted, size), Image.Resampling.BOX)) > 0
    return inside.argmax(axis=0), size - inside[::-1].argmax(axis=0)


def _elastic_draws(stream: Stream, images: Bytes, constants: tuple[float, float, float]) -> Draws:
    count, height, width = images.shape[:3]
    reach = constants[2] * height
    random = stream.bits(2 * height * width + 6)
    moves = uniform(random[:, -6:], -reach, reach).reshape(count, 3, 2)
    across, down = uniform(random[:, :-6], -1, 1).reshape(count, 2, height, width).swapaxes(0, 1)
    return moves.astype(np.float32), across, down


# Displacement, standard deviation that it is smoothed with, largest move of a point of the affine map, each relative to
# the height of the images, as in imagecorruptions; only the smoothing along rows goes by their width. One deviation: in
# the set imagenet these are the constants of the package imagecorruptions 1.1.2, which has no affine map and displaces
# less. Its amplitudes, 12.5, 16.25, 21.25, 25 and 30, are those of noise in -0.005..0.005 of the height.
@corruption(
    constants={
        "cifar": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        "tiny_imagenet": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        "imagenet": ((0.0625, 0.01, 0), (0.08125, 0.01, 0), (0.10625, 0.01, 0), (0.125, 0.01, 0), (0.15, 0.01, 0)),
    },
    draws=_elastic_draws,
)
def elastic_transform(
    images: Bytes, constants: tuple[float, float, float], moves: Singles, across: Floats, down: Floats
) -> Bytes:
    """Applies an affine map that moves three points, then a smooth random displacement, both bilinear.

    moves: float32 (N, 3, 2), how far the points move, in pixels; the last axis is (x, y). across, down: (N, H, W) in
    -1..1, the displacement of each pixel to the right and downwards before it is smoothed and scaled.
    """
    import cv2

    size = height, width = images.shape[1:3]
    length, sigma = constants[0] * height, (constants[1] * height, constants[1] * width)
    right, below = (_displacement(field, length, sigma) for field in (across, down))
    rows: Floats = np.arange(height, dtype=np.float64)[:, None] + below
    columns: Floats = np.arange(width, dtype=np.float64) + right
    sources = _affine(size, moves)
    first_rows, first_columns = (places.reshape(-1) for places in sources)
    moved = bool(moves.any())
    levels = np.empty(images.shape, np.float32)
    singles = single_unit(images)
    for image, y, x, second_y, second_x, target in zip(
        plain(singles), *sources, rows.astype(np.float32), columns.astype(np.float32), plain(levels), strict=True
    ):
        if moved:
            image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        cv2.remap(image, second_x, second_y, cv2.INTER_LINEAR, dst=target, borderMode=cv2.BORDER_REFLECT)
    levels *= 255
    farthest = max(np.abs(rows).max(), np.abs(columns).max())
    # A level changes by at most 255 from one pixel to the next, along each axis.
    error = 24 * SINGLE_ROUNDING + 255 * float(np.spacing(np.float32(farthest))) if _remaps_finely() else np.inf

    flat = singles.reshape(-1)

    def exact(open_: Places) -> Bytes:
        """As the reference: the first map in single precision, the second in double precision."""
        channels = images.shape[3]
        pixel, channel = np.divmod(open_, channels)
        first: Places = pixel // (height * width) * (height * width)
        total = np.zeros(len(open_))
        for place, weight in _taps(size, rows.reshape(-1)[pixel], columns.reshape(-1)[pixel], first, _half_sample):
            if moved:
                warped: Singles = np.zeros(len(open_), np.float32)
                for source, share in _taps(size, first_rows[place], first_columns[place], first, _whole_sample):
                    warped += flat[source * channels + channel] * share
            else:
                warped = flat[place * channels + channel]
            total += warped * weight
        return quantise(total.astype(np.float32))

    return settled(levels, error, exact)


@functools.cache
def _remaps_finely() -> bool:
    """Whether OpenCV interpolates at any place: before version 5 it does so in steps of 1/32 pixel."""
    import cv2

    ramp = np.array([[0, 1, 2, 3]], np.float32)
    place = np.full((1, 1), 1 + 1 / 128, np.float32)
    found = cv2.remap(ramp, place, np.zeros_like(place), cv2.INTER_LINEAR)
    return abs(float(found[0, 0]) - 1 - 1 / 128) < 1e-6


def _displacement(field: Floats, length: float, sigma: tuple[float, float]) -> Singles:
    """Returns `length` times the smoothed field (N, H, W), in single precision."""
    import cv2

    if max(field.shape[1:]) <= 64:
        return (length * _smooth(field, sigma)).astype(np.float32)
    vertical, horizontal = (gaussian_weights(one, 3) for one in sigma)
    result = np.empty_like(field)
    for layer, target in zip(field, result, strict=True):
        cv2.sepFilter2D(layer, cv2.CV_64F, horizontal, vertical, dst=target, borderType=cv2.BORDER_REFLECT)
    # OpenCV adds in another order than the reference. Where that could show, it is done in the reference's.
    lowest, highest = ((length * (result + error)).astype(np.float32) for error in (-1e-14, 1e-14))
    open_ = np.flatnonzero(lowest != highest)
    if len(open_):
        windows = windows_at(field[..., None], open_, (len(vertical) // 2, len(horizontal) // 2), "symmetric")
        result.reshape(-1)[open_] = symmetric_sum(symmetric_sum(windows, vertical), horizontal)
    return (length * result).astype(np.float32)


def _smooth(fields: Floats, sigma: tuple[float, float]) -> Floats:
    """`gaussian` of small (N, H, W) with taps up to three sigma, as products of matrices."""
    vertical, horizontal = (_smoothing(side, one) for side, one in zip(fields.shape[1:], sigma, strict=True))
    return vertical @ fields @ horizontal.T


@functools.lru_cache(maxsize=8)
def _smoothing(size: int, sigma: float) -> Floats:
    """The matrix (size, size) that smooths a column of pixels as `gaussian` does."""
    columns = np.eye(size)[:, :, None].repeat(size, axis=2)  # Each image is constant along its rows.
    return np.ascontiguousarray(gaussian(columns, sigma, "symmetric", 3)[:, :, 0].T)


def _affine(size: tuple[int, int], moves: Singles) -> tuple[Singles, Singles]:
    """Returns where each new pixel comes from, its row and column (N, H, W), as OpenCV 4.11: in steps of 1/32 pixel.

    The affine map moves three corners of a square in the middle.
    """
    height, width = size
    side = min(size) // 3
    right, below = width // 2 + side, height // 2 + side  # the corner; the others are 2 * side to the left or above
    old = np.array([(right, below), (right, below - 2 * side), (right - 2 * side, below - 2 * side)], np.float32)
    corner, above, left = (old + moves).astype(np.float64).transpose(1, 2, 0)  # each (2, N): x, y
    # Old (x, y) goes to (a x + b y + c, d x + e y + f); the inverse says where each new pixel comes from.
    a, d = (above - left) / (2 * side)
    b, e = (corner - above) / (2 * side)
    c, f = corner - below * np.stack((a + b, d + e)) - (right - below) * np.stack((a, d))
    scale = 1 / (a * e - b * d)
    columns = _positions(size, e * scale, -b * scale, (b * f - e * c) * scale)
    rows = _positions(size, -d * scale, a * scale, (d * c - a * f) * scale)
    return rows, columns


def _positions(size: tuple[int, ...], by_column: Floats, by_row: Floats, offset: Floats) -> Singles:
    """by_column * x + by_row * y + offset, each (N,), for all pixels: (N, H, W), as OpenCV rounds it."""
    height, width = size
    along = np.rint(1024 * by_column[:, None] * np.arange(width)).astype(np.float32)
    down = np.rint(1024 * (by_row[:, None] * np.arange(height) + offset[:, None])).astype(np.float32)
    positions = (down + 16)[:, :, None] + along[:, None, :]  # whole numbers, exact in single precision
    positions /= 32
    np.floor(positions, out=positions)
    positions /= 32
    return positions


def _whole_sample(index: Places, size: int) -> Places:
    """Maps outer indices to inner ones by mirroring at the outer pixels: c b | a b c."""
    index = index % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def _half_sample(index: Places, size: int) -> Places:
    """Maps outer indices to inner ones by mirroring at the edge of the image: b a | a b c."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _taps(
    size: tuple[int, int],
    rows: NDArray[Real],
    columns: NDArray[Real],
    first: Places,
    border: Callable[[Places, int], Places],
) -> list[tuple[Places, NDArray[Real]]]:
    """The four pixels around each place, as flat indices into (N, H, W), and their weights.

    size: (H, W). `rows`, `columns`, `first`: (M,), the last one the index of the first pixel of each image. `border`
    maps outer indices.
    """
    height, width = size
    (y, below), (x, right) = _parts(rows, height, border), _parts(columns, width, border)
    return [
        (first + row * width + column, row_weight * weight)
        for row, row_weight in zip(y, (1 - below, below), strict=True)
        for column, weight in zip(x, (1 - right, right), strict=True)
    ]


def _parts(
    places: NDArray[Real], size: int, border: Callable[[Places, int], Places]
) -> tuple[list[Places], NDArray[Real]]:
    """Returns the pixels before and after each place, mapped by `border`, and the distance from the first one."""
    before = np.floor(places)
    number = before.astype(np.intp)
    lowest = int(number.min(initial=0))
    table = border(np.arange(lowest, int(number.max(initial=0)) + 2), size)
    number -= lowest
    return [table.take(number), table[1:].take(number)], places - before
