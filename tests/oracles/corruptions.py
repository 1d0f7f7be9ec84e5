"""The corruptions of the benchmark, slow: from their formulas, or by the library that the reference calls.

Each takes one image uint8 (H, W, C), the constants of one severity and the image's random numbers. Bytes are compared
exactly: quantisation truncates, so that a change in the order of operations shows."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable

import numpy as np
import scipy.ndimage
import scipy.special
import scipy.stats
from PIL import Image

from normbench.corruptions import registry
from tests.oracles.corruption_steps import (
    canny,
    enlarge,
    hsv_map,
    move,
    smooth,
    texture,
    there_and_back,
    to_bytes,
    uniforms,
)


def gaussian_noise(image, c, bits):
    return to_bytes(image / 255 + c * scipy.special.ndtri(uniforms(bits)))


def shot_noise(image, c, bits):
    return to_bytes(scipy.stats.poisson.ppf(uniforms(bits), image / 255 * c) / c)


def speckle_noise(image, c, bits):
    return to_bytes(image / 255 + image / 255 * (c * scipy.special.ndtri(uniforms(bits))))


def impulse_noise(image, p, bits):
    result = image.copy()
    for place in np.ndindex(image.shape):
        if uniforms(bits[place]) <= p:
            result[place] = 255 if uniforms(bits[place]) <= p / 2 else 0
    return result


def gaussian_blur(image, sigma):
    return to_bytes(smooth(image / 255, sigma))


def defocus_blur(image, c):
    radius, sigma = c
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    side, turn = 2 * reach + 1, there_and_back(2 * reach + 1)
    disk = np.zeros((side, side), np.float32)
    for y, x in itertools.product(range(side), repeat=2):
        disk[y, x] = (x - reach) ** 2 + (y - reach) ** 2 <= radius * radius
    disk /= disk.sum()
    weights = np.array([math.exp(-i * i / (2 * sigma**2)) for i in range(-taps, taps + 1)])
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        # OpenCV works in single precision, scipy in double.
        shifts = [[turn[(i + shift - taps) % len(turn)] for i in range(side)] for shift in range(2 * taps + 1)]
        disk = sum(weight * np.take(disk, shift, axis) for weight, shift in zip(weights, shifts, strict=True))
    result, turns = np.zeros(image.shape), [there_and_back(size) for size in image.shape[:2]]
    for y, x in itertools.product(range(side), repeat=2):
        if disk[y, x]:
            place = np.ix_(
                *(
                    [turn[(i + shift - reach) % len(turn)] for i in range(size)]
                    for turn, size, shift in zip(turns, image.shape, (y, x), strict=False)
                )
            )
            result += float(disk[y, x]) * (image / 255)[place]
    return to_bytes(result)


def glass_blur(image, c, offsets):
    sigma, distance, passes = c
    pixels = np.trunc(smooth(image / 255, sigma) * 255).astype(np.uint8)
    for number in range(passes):
        scan = iter(offsets[number].reshape(-1, 2))
        for y in range(len(image) - distance, distance, -1):
            for x in range(image.shape[1] - distance, distance, -1):
                dx, dy = next(scan)
                pixels[y, x] = pixels[y + dy, x + dx]
    return to_bytes(smooth(pixels / 255, sigma))


def motion_blur(image, c, angle):
    return move(image, *c, angle)


def zoom_blur(image, c):
    values = (image / 255).astype(np.float32)
    total = np.zeros_like(values)
    factors = np.arange(1, *c)
    for factor in factors:
        total += enlarge(values, factor)
    return to_bytes((values + total) / (len(factors) + 1))


def fog(image, c, uniforms):
    amount, decay = c
    side = 1
    while side < max(image.shape[:2]):
        side *= 2
    heights, draws, step, rough = {(0, 0): 0.0}, iter(uniforms), side, 100.0

    def at(y: int, x: int) -> float:
        return heights[y % side, x % side]

    def mean(*four: float) -> float:
        return sum(four) / 4 + rough**2 * next(draws)

    while step > 1:
        half = step // 2
        places = list(itertools.product(range(0, side, step), repeat=2))
        for y, x in places:
            heights[y + half, x + half] = mean(at(y, x), at(y + step, x), at(y, x + step), at(y + step, x + step))
        for y, x in places:
            heights[y, x + half] = mean(at(y, x), at(y, x + step), at(y + half, x + half), at(y - half, x + half))
        for y, x in places:
            heights[y + half, x] = mean(at(y, x), at(y + step, x), at(y + half, x + half), at(y + half, x - half))
        step, rough = half, rough / decay
    assert next(draws, None) is None
    low, high = min(heights.values()), max(heights.values())
    field = np.array([[(heights[y, x] - low) / (high - low) for x in range(side)] for y in range(side)])
    field = field[: image.shape[0], : image.shape[1], None]
    brightest = (image / 255).max()
    return to_bytes((image / 255 + amount * field) * brightest / (brightest + amount))


def brightness(image, c):
    return hsv_map(image, lambda s, v: (s, min(max(v + c, 0), 1)))


def saturate(image, c):
    return hsv_map(image, lambda s, v: (min(max(s * c[0] + c[1], 0), 1), v))


def contrast(image, c):
    mean = (image / 255).mean(axis=(0, 1))
    return to_bytes((image / 255 - mean) * c + mean)


def jpeg_compression(image, quality):
    file = io.BytesIO()
    Image.fromarray(image.repeat(3 // image.shape[2], axis=2)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))[..., : image.shape[2]]


def pixelate(image, c):
    height, width = image.shape[:2]
    box = Image.Resampling.BOX
    small = Image.fromarray(image.squeeze()).resize((int(width * c), int(height * c)), box)
    done = small.resize((width, height), box)
    return np.asarray(done).reshape(image.shape)


def frost(image, c, crop):
    share, strength, scale = c
    number, top, left = crop.tolist()
    height, width = image.shape[:2]
    layer = texture(number, scale, height, width)[top : top + height, left : left + width]
    assert layer.shape == image.shape
    return np.trunc(np.clip(share * image.astype(float) + strength * layer, 0, 255)).astype(np.uint8)


def snow(image, c, normals, angle):
    mean, deviation, factor, threshold, radius, sigma, share = c
    flakes = enlarge((mean + deviation * normals)[..., None], factor)
    flakes[flakes < threshold] = 0
    layer = move(to_bytes(flakes), radius, sigma, angle) / 255
    values = image.astype(np.float32) / np.float32(255)
    grey = values @ np.diag(np.array([0.299, 0.587, 0.114], np.float32))
    grey = (grey[..., 0] + grey[..., 1] + grey[..., 2])[..., None]
    whiter = np.float32(share) * values + np.float32(1 - share) * np.maximum(values, grey * 1.5 + 0.5)
    assert whiter.dtype == np.float32
    return to_bytes(whiter + layer + np.rot90(layer, 2))


def spatter(image, c, normals):
    mean, deviation, sigma, threshold, strength, mud = c
    liquid = scipy.ndimage.gaussian_filter(mean + deviation * normals, sigma, mode="nearest")
    liquid[liquid < threshold] = 0
    values = image.astype(np.float32) / np.float32(255)
    if mud:
        share = scipy.ndimage.gaussian_filter((liquid > threshold).astype(np.float32), strength, mode="nearest")
        share = np.where(share < 0.8, np.float32(0), share)[..., None]
        return to_bytes(values * (1 - share) + (np.array([63, 42, 20]) / 255).astype(np.float32) * share)
    drops = (np.floor(liquid * 255) % 256).astype(int)
    edges = np.argwhere(canny(drops))
    distance = np.zeros(drops.shape)
    for y, x in np.ndindex(drops.shape):
        far, near = (np.sort(np.abs(edges - (y, x)))[:, i] for i in (1, 0))
        knights = np.where(far >= 2 * near, near, far - near)
        diagonals = near - knights
        found = 143976 * knights + 91750 * diagonals + 65536 * (far - 2 * knights - diagonals)
        distance[y, x] = found.min(initial=20 << 16) / 65536

    def around(layer: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return scipy.ndimage.correlate(layer, kernel, mode="mirror")

    depth = np.floor(around(distance, np.ones((3, 3))) / 9 + 1e-7).astype(int)
    lowest = depth.min()
    share_above = [((depth > lowest) & (depth <= level)).sum() / max((depth > lowest).sum(), 1) for level in range(21)]
    if depth.max() > lowest:
        depth = np.round(255 * np.array(share_above))[depth].astype(int)
    bright = np.clip(around(depth, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])), 0, 255)
    light = (drops * np.round(around(bright, np.ones((3, 3), int)) / 9)).astype(np.float32)
    if light.max() > 0:
        light = light / light.max() * np.float32(strength)
    return to_bytes(values + light[..., None] * (np.array([175, 238, 238]) / 255).astype(np.float32))


def elastic_transform(image, c, moves, across, downwards):
    height, width = image.shape[:2]
    alpha, sigma = c[0] * height, (c[1] * height, c[1] * width)
    middle, reach = np.array([width // 2, height // 2], np.float32), min(height, width) // 3
    old = np.array([(reach, reach), (reach, -reach), (-reach, -reach)], np.float32) + middle
    new = old + moves
    system = np.hstack([old, np.ones((3, 1))]).astype(np.float64)
    matrix = np.vstack([np.linalg.solve(system, new.astype(np.float64)).T, [0, 0, 1]])
    inverse = np.linalg.inv(matrix)
    values, warped = image.astype(np.float32) / np.float32(255), np.empty(image.shape, np.float32)
    down, aside = there_and_back(height), there_and_back(width)
    for y, x in np.ndindex(height, width):
        source_x, source_y = (
            (round(1024 * a * x) + round(1024 * (b * y + e)) + 16) >> 5 for a, b, e in inverse[:2].tolist()
        )
        total = np.zeros(image.shape[2], np.float32)
        for dy, dx in itertools.product((0, 1), repeat=2):
            weight = abs(1 - dy - source_y % 32 / 32) * abs(1 - dx - source_x % 32 / 32)
            place = down[(source_y // 32 + dy) % len(down)], aside[(source_x // 32 + dx) % len(aside)]
            total += values[place] * np.float32(weight)
        warped[y, x] = total
    rows, columns = np.mgrid[:height, :width]
    right, below = (
        (alpha * scipy.ndimage.gaussian_filter(u, sigma, mode="reflect", truncate=3)).astype(np.float32)
        for u in (across, downwards)
    )
    places = [rows + below, columns + right]
    channels = [
        scipy.ndimage.map_coordinates(warped[..., i], places, order=1, mode="reflect") for i in range(image.shape[2])
    ]
    return to_bytes(np.stack(channels, axis=-1))


ORACLES: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        fog,
        brightness,
        saturate,
        contrast,
        jpeg_compression,
        pixelate,
        snow,
        frost,
        spatter,
        elastic_transform,
    )
}

# A library adds in an order of its own here, so that a byte in a thousand may differ by one.
NEARLY = ("elastic_transform",)


def assert_alike(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    """The same bytes, or nearly so for the corruptions in `NEARLY`."""
    assert found.dtype == np.uint8
    if name in NEARLY:
        difference = np.abs(found.astype(int) - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3
    else:
        np.testing.assert_array_equal(found, wanted)


def expected(images: np.ndarray, name: str, severity: int, seed: int, constants: str = "cifar") -> np.ndarray:
    """What the oracle makes of images (N, H, W, C), from the constants and the random numbers of the package."""
    found = registry.get(name)
    values = found.constants[constants][severity - 1]
    draws = found.draw(images, values, seed, severity, np.arange(len(images)))
    grey = images.shape[3] == 1 and name in ("brightness", "saturate", "snow", "frost", "spatter")
    results = []
    for number, image in enumerate(images):
        source = image.repeat(3, axis=2) if grey else image
        result = ORACLES[name](source, values, *(drawn[number] for drawn in draws))
        results.append(np.asarray(Image.fromarray(result).convert("L"))[..., None] if grey else result)
    return np.stack(results)
