"""The corruptions against slow oracles, one image at a time; against arrays and statistics of the reference code, where
`../shared` is there; their draws, their files and what they refuse.

Bytes are compared exactly: quantisation truncates, so that a change of the order of operations shows.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats
import torch
from PIL import Image

from normbench.corruptions import MAIN, NAMES, corrupt
from normbench.corruptions.constants import CIFAR, EXTRA, SETS, SEVERITIES, TINY_IMAGENET, Constants, set_for
from normbench.corruptions.draws import DRAWS, Stream, draw, generator
from normbench.corruptions.files import copy_published, write_corrupted
from normbench.corruptions.frost import _originals, textures
from normbench.corruptions.imagecorruptions_engine import corrupt_with_imagecorruptions
from normbench.corruptions.operators import luma, motion
from normbench.corruptions.spatter import _distance as distances
from normbench.system import files, layout
from normbench.system.errors import UserError
from stages import corrupt as stage

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
GOLDEN = SHARED / "golden/cifar_c_deterministic.npz"
STATISTICS = SHARED / "golden/cifar_c_statistics.json"
CONSTANTS = SHARED / "spec/corruption_constants.json"
needs_shared = pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared, the reference's arrays")

NOISES = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]
RANDOM = [name for name in NAMES if name in DRAWS]


# --------------------------------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A photograph, as bundled with scikit-learn, with every third pixel."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")[::3, ::3]


def crops(scene: np.ndarray, size: int, count: int) -> np.ndarray:
    """Crops of a photograph, then a black, a white and a random image."""
    corners = np.random.RandomState(size).randint(0, np.array(scene.shape[:2]) - size, (count, 2))
    made = [scene[y : y + size, x : x + size] for y, x in corners]
    made += [np.full_like(made[0], value) for value in (0, 255)]
    made.append(np.random.RandomState(0).randint(0, 256, made[0].shape, np.uint8))
    return np.stack(made)


@pytest.fixture(scope="module")
def images(scene: np.ndarray) -> np.ndarray:
    return crops(scene, 32, 3)


@pytest.fixture(scope="module")
def cifar() -> np.ndarray:
    """The 10,000 test images of CIFAR-10."""
    packed = SHARED / "data"
    if not (packed / "unpack.py").exists():
        pytest.skip("needs ../shared/data, the images of CIFAR-10")
    spec = importlib.util.spec_from_file_location("unpack", packed / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    return unpack.load("cifar10_test_batch", packed, json.loads((packed / "manifest.json").read_text()))


# -------------------------------------------------------------------------------------------------------- oracles
# From the formulas, one image (H, H, C) at a time, with loops or with the library that the reference calls.


def to_bytes(values: np.ndarray) -> np.ndarray:
    return np.trunc(np.clip(values, 0, 1) * 255).astype(np.uint8)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=4)


def enlarge(values: np.ndarray, factor: float) -> np.ndarray:
    size = len(values)
    crop = math.ceil(size / factor)
    top = (size - crop) // 2
    middle = values[top : top + crop, top : top + crop]
    # With scipy's default mode, which the reference has, a last pixel whose position rounds up is black.
    large = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1, mode="nearest")
    trim = (len(large) - size) // 2
    return large[trim : trim + size, trim : trim + size]


def move(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """Motion blur of grey levels: 16-bit rounding, then the upper 8 bits."""
    taps = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(taps)]
    x, y = taps * math.cos(math.radians(angle)), taps * math.sin(math.radians(angle))
    levels, total = image.astype(np.float64), np.zeros(image.shape)
    rows, columns = np.mgrid[: len(image), : len(image)]
    for i in range(taps):
        below = np.clip(rows + math.ceil(i * y / math.hypot(x, y) - 0.5), 0, len(image) - 1)
        right = np.clip(columns + math.ceil(i * x / math.hypot(x, y) - 0.5), 0, len(image) - 1)
        total += weights[i] / sum(weights) * levels[below, right]
    sixteen = np.floor(total * 257 + 0.5)
    return (sixteen // 257).astype(np.uint8)


def uniforms(bits: np.ndarray) -> np.ndarray:
    return (bits + 0.5) / 2**32


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
    result, turn = np.zeros(image.shape), there_and_back(len(image))
    for y, x in itertools.product(range(side), repeat=2):
        if disk[y, x]:
            rows, columns = ([turn[(i + shift - reach) % len(turn)] for i in range(len(image))] for shift in (y, x))
            place = np.ix_(rows, columns)
            result += float(disk[y, x]) * (image / 255)[place]
    return to_bytes(result)


def there_and_back(size: int) -> list[int]:
    """Positions turned back at the first and at the last: one period."""
    return [*range(size), *range(size - 2, 0, -1)]


def glass_blur(image, c, offsets):
    sigma, distance, passes = c
    pixels = np.trunc(smooth(image / 255, sigma) * 255).astype(np.uint8)
    for number in range(passes):
        scan = iter(offsets[number].reshape(-1, 2))
        for y in range(len(image) - distance, distance, -1):
            for x in range(len(image) - distance, distance, -1):
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
    while side < len(image):
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
    field = field[: len(image), : len(image), None]
    brightest = (image / 255).max()
    return to_bytes((image / 255 + amount * field) * brightest / (brightest + amount))


def hsv_map(image: np.ndarray, change: Callable[[float, float], tuple[float, float]]) -> np.ndarray:
    """Applies `change` to saturation and value of each pixel."""
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        r, g, b = (image[place] / 255).tolist()
        v, d = max(r, g, b), max(r, g, b) - min(r, g, b)
        h = s = 0.0
        if d:
            s = d / v
            if b == v:
                h = 4 + (r - g) / d
            elif g == v:
                h = 2 + (b - r) / d
            else:
                h = (g - b) / d
            h = h / 6 % 1
        s, v = change(s, v)
        i = math.floor(h * 6)
        f = h * 6 - i
        p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
        result[place] = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)][i % 6]
    return to_bytes(result)


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
    size, small = len(image), int(len(image) * c)
    box = Image.Resampling.BOX
    done = Image.fromarray(image.squeeze()).resize((small, small), box).resize((size, size), box)
    return np.asarray(done).reshape(image.shape)


def texture(number: int, scale: float, size: int) -> np.ndarray:
    """As OpenCV reads and scales it; enlarged where it would not be larger than an image of side `size`."""
    import cv2

    spec = importlib.util.find_spec("imagecorruptions")
    name = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")[number]
    whole = cv2.imread(str(Path(spec.submodule_search_locations[0]) / "frost" / name))[..., ::-1]
    small = cv2.resize(whole, (0, 0), fx=scale, fy=scale)
    if min(small.shape[:2]) <= size:
        scale = 1.1 * size / min(whole.shape[:2])
        small = cv2.resize(whole, (0, 0), fx=scale, fy=scale)
    return small


def frost(image, c, crop):
    share, strength, scale = c
    number, top, left = crop.tolist()
    layer = texture(number, scale, len(image))[top : top + len(image), left : left + len(image)]
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


def canny(layer: np.ndarray) -> np.ndarray:
    """With thresholds 50 and 150, sum of absolute derivatives; by angles where OpenCV compares integers."""
    size = len(layer)
    smooth, slope = np.array([1, 2, 1]), np.array([-1, 0, 1])
    padded = np.pad(layer.astype(int), 1, mode="edge")
    across, down, strength = np.zeros((3, size, size), int)
    for y, x in np.ndindex(size, size):
        around = padded[y : y + 3, x : x + 3]
        across[y, x], down[y, x] = smooth @ around @ slope, slope @ around @ smooth
        strength[y, x] = abs(across[y, x]) + abs(down[y, x])
    framed = np.pad(strength, 1)
    kept = np.zeros((size, size), bool)
    for y, x in np.ndindex(size, size):
        angle = math.degrees(math.atan2(abs(down[y, x]), abs(across[y, x])))
        if angle < 22.5:
            step, strict = (0, 1), False
        elif angle > 67.5:
            step, strict = (1, 0), False
        else:
            step, strict = (1, 1 if (down[y, x] < 0) == (across[y, x] < 0) else -1), True
        here, before = strength[y, x], framed[y + 1 - step[0], x + 1 - step[1]]
        after = framed[y + 1 + step[0], x + 1 + step[1]]
        kept[y, x] = here > 50 and here > before and (here > after if strict else here >= after)
    parts, _ = scipy.ndimage.label(kept, np.ones((3, 3)))
    return np.isin(parts, np.unique(parts[kept & (strength > 150)])) & kept


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
    size = len(drops)
    edges = np.argwhere(canny(drops))
    distance = np.zeros((size, size))
    for y, x in np.ndindex(size, size):
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


def elastic_transform(image, c, moves, across, down):
    size = len(image)
    alpha, sigma = c[0] * size, c[1] * size
    middle, reach = size // 2, size // 3
    old = np.array([(reach, reach), (reach, -reach), (-reach, -reach)], np.float32) + middle
    new = old + moves
    system = np.hstack([old, np.ones((3, 1))]).astype(np.float64)
    matrix = np.vstack([np.linalg.solve(system, new.astype(np.float64)).T, [0, 0, 1]])
    inverse = np.linalg.inv(matrix)
    values, warped = image.astype(np.float32) / np.float32(255), np.empty(image.shape, np.float32)
    turn = there_and_back(size)
    for y, x in np.ndindex(size, size):
        source_x, source_y = (
            (round(1024 * a * x) + round(1024 * (b * y + e)) + 16) >> 5 for a, b, e in inverse[:2].tolist()
        )
        total = np.zeros(image.shape[2], np.float32)
        for dy, dx in itertools.product((0, 1), repeat=2):
            weight = abs(1 - dy - source_y % 32 / 32) * abs(1 - dx - source_x % 32 / 32)
            place = turn[(source_y // 32 + dy) % len(turn)], turn[(source_x // 32 + dx) % len(turn)]
            total += values[place] * np.float32(weight)
        warped[y, x] = total
    rows, columns = np.mgrid[:size, :size]
    right, below = (
        (alpha * scipy.ndimage.gaussian_filter(u, sigma, mode="reflect", truncate=3)).astype(np.float32)
        for u in (across, down)
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

# Where a sum's order cannot be the library's, a byte in a thousand may be one off.
NEARLY = ("elastic_transform",)


def assert_alike(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == np.uint8
    if name in NEARLY:
        difference = np.abs(found.astype(int) - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3
    else:
        np.testing.assert_array_equal(found, wanted)


def expected(images: np.ndarray, name: str, severity: int, seed: int, constants: str = "cifar") -> np.ndarray:
    """The oracle's images, from the package's draws."""
    values = SETS[constants][name][severity - 1]
    draws = draw(name, images, values, seed, severity, np.arange(len(images)))
    grey = images.shape[3] == 1 and name in ("brightness", "saturate", "snow", "frost", "spatter")
    results = []
    for number, image in enumerate(images):
        source = image.repeat(3, axis=2) if grey else image
        result = ORACLES[name](source, values, *(drawn[number] for drawn in draws))
        results.append(np.asarray(Image.fromarray(result).convert("L"))[..., None] if grey else result)
    return np.stack(results)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_oracle(name: str, severity: int, images: np.ndarray) -> None:
    found = corrupt(images, name, severity, seed=3)
    assert_alike(name, found, expected(images, name, severity, seed=3))
    assert not np.array_equal(found, images)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 1), (28, 1), (9, 3), (24, 3), (40, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_and_grey(name: str, size: int, channels: int, scene: np.ndarray) -> None:
    images = crops(scene, size, 1)[..., :channels]
    for severity in (1, 5):
        assert_alike(name, corrupt(images, name, severity), expected(images, name, severity, seed=0))


@pytest.mark.parametrize("constants", ["tiny_imagenet", "imagenet"])
@pytest.mark.parametrize("name", NAMES)
def test_other_constants(name: str, constants: str, scene: np.ndarray) -> None:
    images = crops(scene, 26, 1)
    for severity in SEVERITIES:
        found = corrupt(images, name, severity, constants=constants)
        assert_alike(name, found, expected(images, name, severity, 0, constants))
    for size, channels in ((8, 1), (9, 3)):
        images = crops(scene, size, 1)[..., :channels]
        found = corrupt(images, name, 5, constants=constants)
        assert_alike(name, found, expected(images, name, 5, 0, constants))


@pytest.mark.parametrize(
    ("size", "constants"), [(47, "cifar"), (48, "tiny_imagenet"), (127, "tiny_imagenet"), (128, "imagenet")]
)
def test_constants_go_by_the_size(size: int, constants: str, scene: np.ndarray) -> None:
    assert set_for(size) == constants
    image = crops(scene, size, 1)[:1]
    for name in ("contrast", "frost"):
        np.testing.assert_array_equal(corrupt(image, name, 3), corrupt(image, name, 3, constants=constants))


@pytest.mark.parametrize("constants", SETS)
@pytest.mark.parametrize(("name", "step"), [("pixelate", 1), ("zoom_blur", 5)])
def test_sizes_round_as_the_library_does(name: str, step: int, constants: str, scene: np.ndarray) -> None:
    for size in range(8, 65, step):
        images = crops(scene, size, 1)
        severity = size // step % 5 + 1
        found = corrupt(images, name, severity, constants=constants)
        np.testing.assert_array_equal(found, expected(images, name, severity, 0, constants))


def test_luma_is_pillow_s() -> None:
    colours = np.random.RandomState(0).randint(0, 256, (1, 512, 512, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours)[0, ..., 0], np.asarray(Image.fromarray(colours[0]).convert("L")))


def test_distance_to_one_edge() -> None:
    """OpenCV's 5 x 5 mask for DIST_L2: 1, 1.4 and 2.1969 pixels, in 1/65536."""
    edges = np.zeros((2, 48, 48), bool)
    edges[0, 5, 40] = True
    found = distances(edges)
    assert found[0, 5, 40] == 0
    assert found[0, 5, 33] == found[0, 12, 40] == 7 * 65536
    assert found[0, 9, 36] == found[0, 1, 44] == 4 * round(1.4 * 65536)
    assert found[0, 11, 37] == found[0, 8, 46] == 3 * round(2.1969 * 65536)
    assert found[0, 6, 36] == round(2.1969 * 65536) + 2 * 65536
    assert found[0, 9, 35] == round(2.1969 * 65536) + 3 * round(1.4 * 65536)
    assert found[0, 5, 0] > 20 * 65536
    assert found[1].min() > 20 * 65536


def test_motion_of_one_pixel() -> None:
    """What ImageMagick makes of a single white pixel, R = 6, sigma = 2."""
    image = np.zeros((1, 32, 32, 1), np.uint8)
    image[0, 16, 16] = 255
    levels = [84, 74, 51, 27, 11, 3]
    for angle, places in (
        (0, [(16, 16), (16, 15), (16, 14), (16, 13), (16, 12), (16, 11)]),
        (30, [(16, 16), (16, 15), (15, 14), (15, 13), (14, 13), (14, 12)]),
    ):
        wanted = np.zeros((32, 32), np.uint8)
        for place, level in zip(places, levels, strict=True):
            wanted[place] = level
        np.testing.assert_array_equal(motion(image, 6, 2, np.array([float(angle)]))[0, ..., 0], wanted)


# -------------------------------------------------------------------------------------------------------- tensors


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_is_corrupted_as_the_array(device: str, channels: int, images: np.ndarray) -> None:
    arrays = images[..., :channels]
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous().to(device)
    before = tensor.clone()
    for given in (tensor, tensor.to(memory_format=torch.channels_last)):
        for name in ("impulse_noise", "jpeg_compression", "frost"):
            found = corrupt(given, name, 4, 2, list(range(5, 5 + len(images))), "tiny_imagenet")
            assert (found.dtype, found.device, found.stride()) == (torch.uint8, given.device, given.stride())
            wanted = corrupt(arrays, name, 4, 2, np.arange(5, 5 + len(images)), "tiny_imagenet")
            np.testing.assert_array_equal(found.permute(0, 2, 3, 1).cpu().numpy(), wanted)
    assert torch.equal(tensor, before)


# ---------------------------------------------------------------------------------------------------------- frost


def test_textures_are_opencv_s() -> None:
    """At the scales of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C."""
    for scale, size in ((0.2, 32), (0.3, 64), (1, 224)):
        for number, found in enumerate(textures(scale, size)):
            np.testing.assert_array_equal(found, texture(number, scale, size))


@pytest.mark.parametrize(("scale", "size"), [(0.2, 62), (0.2, 63), (0.2, 200), (1, 700)])
def test_textures_are_larger_than_the_images(scale: float, size: int) -> None:
    for number, found in enumerate(textures(scale, size)):
        assert min(found.shape[:2]) > size
        wanted = texture(number, scale, size)
        assert found.shape == wanted.shape
        difference = np.abs(found.astype(int) - wanted)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


@pytest.fixture
def fresh_textures() -> Iterator[None]:
    for cached in (textures, _originals):
        cached.cache_clear()
    yield
    for cached in (textures, _originals):
        cached.cache_clear()


@pytest.mark.usefixtures("fresh_textures")
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("package", "package imagecorruptions is not installed"),
        ("file", "frost: {}: no such file; imagecorruptions 1.1.2 has it"),
        ("content", "frost: {}: sha256 5feceb66..., but that of imagecorruptions 1.1.2 is 2d0d50b4..."),
    ],
)
def test_textures_that_are_not_there(
    fault: str, line: str, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("imagecorruptions")
    folder = tmp_path / "imagecorruptions" / "frost"
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "frost", folder)
    spec.submodule_search_locations[:] = [str(folder.parent)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if fault == "package" else spec)
    if fault == "file":
        (folder / "frost3.png").unlink()
    if fault == "content":
        (folder / "frost3.png").write_text("0")
    with pytest.raises(UserError) as caught:
        corrupt(images, "frost", 1)
    assert str(caught.value) == line.format(folder / "frost3.png")


# ---------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_alike_in_any_batch(name: str, images: np.ndarray) -> None:
    many = np.concatenate([images] * 12)  # more than one block
    numbers = np.arange(100, 100 + len(many))
    whole = corrupt(many, name, 3, 7, numbers)
    for size in (1, 7):
        for start in range(0, 2 * len(images), size):
            part = slice(start, start + size)
            np.testing.assert_array_equal(corrupt(many[part], name, 3, 7, numbers[part]), whole[part])
    order = np.random.RandomState(0).permutation(len(many))
    np.testing.assert_array_equal(corrupt(many[order], name, 3, 7, numbers[order]), whole[order])
    np.testing.assert_array_equal(corrupt(many[:5], name, 3, 7, list(numbers[:5])), whole[:5])


def test_the_index_counts_from_zero(images: np.ndarray) -> None:
    np.testing.assert_array_equal(
        corrupt(images, "shot_noise", 2), corrupt(images, "shot_noise", 2, index=np.arange(len(images)))
    )


@pytest.mark.parametrize("name", RANDOM)
def test_draws_differ(name: str, images: np.ndarray) -> None:
    """Between seeds, indices and severities; the constants stay, so that only the draws can differ."""
    constants = CIFAR[name][4]
    image = images[:1]
    keys = [(0, 5, 0), (1, 5, 0), (0, 4, 0), (0, 5, 1), (5, 0, 0)]
    made = [draw(name, image, constants, seed, severity, np.array([index])) for seed, severity, index in keys]
    for one, other in itertools.combinations(made, 2):
        assert not any(np.array_equal(first, second) for first, second in zip(one, other, strict=True))
    assert not any(np.array_equal(first, second) for first, second in itertools.combinations(made[0], 2))
    again = draw(name, image, constants, 0, 5, np.array([0]))
    assert all(np.array_equal(first, second) for first, second in zip(made[0], again, strict=True))


def test_corruptions_have_draws_of_their_own() -> None:
    assert generator(0, "gaussian_noise", 1, 0).random_sample() != generator(0, "speckle_noise", 1, 0).random_sample()
    first, second = (Stream(0, name, 1, np.arange(2)).bits(8) for name in ("gaussian_noise", "speckle_noise"))
    assert not (first == second).any()


def test_the_draws_are_pinned() -> None:
    """The keys and counters as documented, and the distributions of numpy 1.26: they must not change with a release."""
    key = int.from_bytes(hashlib.blake2b(b"2/fog/3", digest_size=16).digest(), "little")
    stream = Stream(2, "fog", 3, np.array([41, 42, 7, -1]))
    found = stream.bits(11)  # two blocks of eight
    for number, row in zip((41, 42, 7, 2**64 - 1), found, strict=True):
        words = np.random.Philox(key=key, counter=2 * number).random_raw(8).astype("<u8").view("<u4")
        np.testing.assert_array_equal(row, words[:11])
    normals = stream.normals(3, 1)
    for number, row in zip((41, 42, 7, 2**64 - 1), normals, strict=True):
        random = np.random.RandomState(np.random.Philox(key=key, counter=(number << 64) + (1 << 192)))
        np.testing.assert_array_equal(row, random.standard_normal((3, 1)))
    assert found[0, :3].tolist() == [2668854760, 3758794245, 1336811336]
    assert normals[0, :, 0].tolist() == pytest.approx([0.10029868360878241, 1.073088800076831, -0.2790644924779858])


def test_draws_have_their_distributions() -> None:
    """On 64 images of one grey, to five standard errors."""
    grey = np.full((64, 32, 32, 3), 128, np.uint8)

    def made(name: str, severity: int) -> tuple[np.ndarray, ...]:
        return draw(name, grey, CIFAR[name][severity - 1], 0, severity, np.arange(64))

    spans = [(bits / 2**32, (0, 1)) for name in NOISES for bits in made(name, 1)]
    spans += [(made("fog", 1)[0], (-1, 1)), (made("motion_blur", 1)[0], (-45, 45)), (made("snow", 1)[1], (-135, -45))]
    moves, across, down = made("elastic_transform", 1)
    spans += [(moves, (-2.56, 2.56)), (across, (-1, 1)), (down, (-1, 1))]
    for values, (low, high) in spans:
        uniforms = (values.astype(np.float64) - low) / (high - low)
        assert uniforms.min() >= 0
        assert uniforms.max() <= 1
        assert abs(uniforms.mean() - 0.5) < 5 * (1 / 12 / uniforms.size) ** 0.5
        assert abs(uniforms.std() - 12**-0.5) < 5 * 0.13 / uniforms.size**0.5
    for normals in (made("snow", 1)[0], made("spatter", 1)[0]):
        assert normals.shape == (64, 32, 32)
        assert abs(normals.mean()) < 5 / normals.size**0.5
        assert abs(normals.var() - 1) < 5 * (2 / normals.size) ** 0.5
    (crops,) = made("frost", 1)
    known = textures(0.2, 32)
    assert [texture.shape[:2] for texture in known] == [(120, 180), (63, 112), (63, 112), (70, 105), (99, 132)]
    assert set(crops[:, 0]) == set(range(5))
    room = np.array([known[number].shape[:2] for number in crops[:, 0]]) - 32
    assert (crops[:, 1:] >= 0).all()
    assert (crops[:, 1:] < room).all()
    assert abs(((crops[:, 1:] + 0.5) / room).mean() - 0.5) < 5 * (1 / 12 / 128) ** 0.5
    (offsets,) = made("glass_blur", 4)
    assert offsets.shape == (64, 2, 30, 30, 2)
    assert set(np.unique(offsets)) == {-1, 0}
    assert abs(offsets.mean() + 0.5) < 5 * 0.5 / offsets.size**0.5


# ------------------------------------------------------------------------------------------- constants and names


def test_names() -> None:
    assert len(MAIN) == 15
    assert len(EXTRA) == 4
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) == set(MAIN + EXTRA)
    assert set(NAMES) == set(ORACLES)
    for constants in SETS.values():
        assert set(constants) == set(NAMES)
        assert all(len(values) == 5 for values in constants.values())


def test_constants_are_pinned() -> None:
    """As they were when they were compared with the reference's (below), and with its scripts."""
    assert files.hash_of(SETS) == "ea63f6624ef489491d9890d76395dc136754bd7232bd46a2f8af812d40bf548f"


@pytest.mark.skipif(not CONSTANTS.exists(), reason="needs ../shared, the reference's constants")
@pytest.mark.parametrize(
    ("constants", "key", "side", "scale"), [(CIFAR, "cifar10_c", 32, 0.2), (TINY_IMAGENET, "tiny_imagenet_c", 64, 0.3)]
)
def test_constants_are_the_reference_s(constants: Constants, key: str, side: int, scale: float) -> None:
    reference = json.loads(CONSTANTS.read_text())[key]
    assert set(reference) == set(constants)
    for name, values in constants.items():
        found: Any = [list(value) if isinstance(value, tuple) else value for value in values]
        if name == "zoom_blur":
            found = [f"arange(1, {stop}, {step})" for stop, step in values]
        if name == "frost":
            found = [[share, strength] for share, strength, _ in values]
            assert {value[2] for value in values} == {scale}
        if name == "elastic_transform":
            found = [[pytest.approx(part * side) for part in value] for value in values]
        assert found == reference[name], name


def test_zoom_factors_are_the_reference_s() -> None:
    """The last of severity 5 is a little above 1.25: it decides a rounding."""
    counts = [len(np.arange(1, *constants)) for constants in CIFAR["zoom_blur"]]
    assert counts == [7, 12, 16, 21, 26]
    assert np.arange(1, *CIFAR["zoom_blur"][4])[-1] == 1.2500000000000002


# ------------------------------------------------------------------------------------------------- the reference


@needs_shared
@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAWS])
def test_equals_the_reference(name: str, cifar: np.ndarray) -> None:
    golden = np.load(GOLDEN)
    for severity in SEVERITIES:
        np.testing.assert_array_equal(corrupt(cifar[golden["index"]], name, severity), golden[name][severity - 1])


# Of mean_abs, rms and out_std in percent; of bias in grey levels. From the spread between seeds of the reference.
TOLERANCES = {
    "gaussian_noise": (0.5, 0.5, 0.2, 0.15),
    "shot_noise": (0.5, 0.5, 0.2, 0.15),
    "speckle_noise": (0.5, 0.5, 0.2, 0.15),
    "impulse_noise": (3.5, 2, 0.2, 0.2),
    "glass_blur": (1, 1, 0.2, 0.15),
    "motion_blur": (5, 4, 0.5, 0.3),
    "fog": (4, 4, 3.5, 2.5),
    "snow": (2.5, 3, 1, 1.3),
    "frost": (8, 6, 3, 4),
    "spatter": (5, 3.5, 0.3, 0.3),
    "elastic_transform": (4.5, 5, 0.6, 0.7),
}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_has_the_reference_s_statistics(name: str, cifar: np.ndarray) -> None:
    index = np.arange(1000, 2000)
    reference = json.loads(STATISTICS.read_text())["stats"][name]
    for severity, wanted in zip(SEVERITIES, reference, strict=True):
        found = corrupt(cifar[index], name, severity, 0, index)
        change = found.astype(np.float64) - cifar[index]
        mean_abs, rms, out_std, bias = TOLERANCES[name]
        assert np.abs(change).mean() == pytest.approx(wanted["mean_abs"], rel=mean_abs / 100)
        assert np.sqrt((change**2).mean()) == pytest.approx(wanted["rms"], rel=rms / 100)
        assert found.std() == pytest.approx(wanted["out_std"], rel=out_std / 100)
        assert change.mean() == pytest.approx(wanted["bias"], abs=bias)


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "gausian_noise"}, "unknown corruption 'gausian_noise': did you mean 'gaussian_noise'?"),
        ({"severity": 0}, "severity 0 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"severity": 6}, "severity 6 of 'fog': valid: 1, 2, 3, 4, 5"),
        ({"images": np.zeros((2, 32, 32, 3))}, "images of type float64: corruptions need uint8, 0 to 255"),
        (
            {"images": np.zeros((32, 32, 3), np.uint8)},
            "images of shape (32, 32, 3): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 32, 30, 3), np.uint8)},
            "images of shape (2, 32, 30, 3): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 3, 32, 32), np.uint8)},
            "images of shape (2, 3, 32, 32): corruptions need (N, H, H, C), square, C = 1 or 3",
        ),
        (
            {"images": np.zeros((2, 7, 7, 1), np.uint8)},
            "images of shape (2, 7, 7, 1): corruptions need a side of 8 pixels or more",
        ),
        ({"constants": "cifar10"}, "unknown constants 'cifar10': did you mean 'cifar'?"),
        ({"index": [1, 2, 3]}, "index: int64 of shape (3,) for 2 images: needs one integer each"),
        ({"index": [0.0, 1.0]}, "index: float64 of shape (2,) for 2 images: needs one integer each"),
    ],
)
def test_refuses_in_one_line(change: dict[str, Any], line: str) -> None:
    arguments = {"images": np.zeros((2, 32, 32, 3), np.uint8), "name": "fog", "severity": 1, **change}
    with pytest.raises(UserError) as caught:
        corrupt(**arguments)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("tensor", "line"),
    [
        (torch.zeros(2, 3, 32, 32), "images of type float32: corruptions need uint8, 0 to 255"),
        (
            torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
            "images of shape (2, 32, 32, 3): corruptions need (N, C, H, H), square, C = 1 or 3",
        ),
        (
            torch.zeros(3, 32, 32, dtype=torch.uint8),
            "images of shape (3, 32, 32): corruptions need (N, C, H, H), square, C = 1 or 3",
        ),
        (
            torch.zeros(2, 1, 7, 7, dtype=torch.uint8),
            "images of shape (2, 1, 7, 7): corruptions need a side of 8 pixels or more",
        ),
    ],
)
def test_refuses_a_tensor_in_one_line(tensor: torch.Tensor, line: str) -> None:
    with pytest.raises(UserError) as caught:
        corrupt(tensor, "fog", 1)
    assert str(caught.value) == line


def test_no_image_is_no_error() -> None:
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog", 1).shape == (0, 32, 32, 3)


def test_images_are_left_as_they_are(images: np.ndarray) -> None:
    for name in NAMES:
        copy = images.copy()
        copy.flags.writeable = False
        corrupt(copy, name, 5)


# ---------------------------------------------------------------------------------------------------------- files


def prepared(folder: Path, images: np.ndarray, classes: int = 10) -> np.ndarray:
    """A prepared dataset in `folder`; its labels."""
    folder.mkdir(parents=True)
    labels = np.arange(len(images)) * (classes - 1) // (len(images) - 1)
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", labels)
    files.write_json(folder / "meta.json", {"classes": classes, "fingerprint": "f" * 64})
    return labels


def test_files_have_the_layout_of_the_benchmark(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("normbench.corruptions.files.IMAGES", 4)
    labels = prepared(layout.DATA / "scenes", images)
    wanted = {"names": ["impulse_noise", "contrast"], "severities": [2, 5], "seed": 11, "engine": "normbench"}
    files.write_json(layout.RESOLVED / "corruptions.json", {**wanted, "constants": "auto", "source": None})
    stage.corrupt("scenes")
    folder = layout.CORRUPTED / "scenes"
    assert sorted(path.name for path in folder.iterdir()) == [
        "contrast.npy",
        "impulse_noise.npy",
        "labels.npy",
        "meta.json",
    ]
    for name in wanted["names"]:
        stored = np.load(folder / f"{name}.npy")
        np.testing.assert_array_equal(stored, np.concatenate([corrupt(images, name, level, 11) for level in (2, 5)]))
        assert stored.dtype == np.uint8
    stored = np.load(folder / "labels.npy")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, np.concatenate([labels, labels]))
    meta = files.read_json(folder / "meta.json")
    versions, hashes = meta.pop("versions"), meta.pop("sha256")
    for name in wanted["names"]:
        assert hashes[name] == hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
    assert meta == {**wanted, "constants": "cifar", "published": None, "source_fingerprint": "f" * 64}
    assert versions["numpy"] == np.__version__
    assert versions["pillow"] == Image.__version__


@pytest.mark.parametrize(
    ("engine", "constants", "used"),
    [("normbench", "auto", "cifar"), ("normbench", "imagenet", "imagenet"), ("imagecorruptions", "auto", "imagenet")],
)
def test_files_of_an_engine(engine: str, constants: str, used: str, tmp_path: Path, images: np.ndarray) -> None:
    prepared(tmp_path / "scenes", images)
    write_corrupted(tmp_path / "scenes", tmp_path / "out", ["impulse_noise"], [3], 4, engine, constants)
    meta = files.read_json(tmp_path / "out/meta.json")
    assert (meta["engine"], meta["constants"], meta["seed"]) == (engine, used, 4)
    assert ("scikit-image" in meta["versions"]) == (engine == "imagecorruptions")
    make = corrupt_with_imagecorruptions if engine == "imagecorruptions" else functools.partial(corrupt, constants=used)
    np.testing.assert_array_equal(np.load(tmp_path / "out/impulse_noise.npy"), make(images, "impulse_noise", 3, 4))


def test_an_engine_refuses_small_images(tmp_path: Path, scene: np.ndarray) -> None:
    prepared(tmp_path / "scenes", crops(scene, 28, 1))
    with pytest.raises(UserError, match=r"^images of 28 x 28: imagecorruptions needs a side of 32 pixels or more$"):
        write_corrupted(tmp_path / "scenes", tmp_path / "out", ["fog"], [1], 0, "imagecorruptions")


@pytest.mark.parametrize(("classes", "kind"), [(255, np.uint8), (256, np.int64)])
def test_labels_of_many_classes(tmp_path: Path, images: np.ndarray, classes: int, kind: type) -> None:
    labels = prepared(tmp_path / "many", images, classes)
    write_corrupted(tmp_path / "many", tmp_path / "out", ["contrast"], [1], 0)
    stored = np.load(tmp_path / "out/labels.npy")
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, labels)


def test_files_are_whole_or_as_before(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "scenes", images)
    write_corrupted(tmp_path / "scenes", tmp_path / "out", ["contrast"], [1], 0)
    before = (tmp_path / "out/contrast.npy").read_bytes()

    def full(images: np.ndarray, name: str, *rest: Any) -> np.ndarray:
        if name == "fog":
            raise OSError(28, "No space left on device")
        return corrupt(images, name, *rest)

    monkeypatch.setattr("normbench.corruptions.files.corrupt", full)
    with pytest.raises(OSError, match="No space"):
        write_corrupted(tmp_path / "scenes", tmp_path / "out", ["contrast", "fog"], [2], 0)
    assert (tmp_path / "out/contrast.npy").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scenes"]


@pytest.mark.parametrize(
    ("names", "severities", "line"),
    [
        (["contrast", "fogg"], [1], "unknown corruption 'fogg': did you mean 'fog'?"),
        (["contrast"], [], "severities []: valid: some of 1, 2, 3, 4, 5, ascending"),
        (["contrast"], [1, 6], "severities [1, 6]: valid: some of 1, 2, 3, 4, 5, ascending"),
        (["contrast"], [2, 1], "severities [2, 1]: valid: some of 1, 2, 3, 4, 5, ascending"),
    ],
)
def test_files_are_refused_before_any_work(
    tmp_path: Path, images: np.ndarray, names: list[str], severities: list[int], line: str
) -> None:
    prepared(tmp_path / "scenes", images)
    with pytest.raises(UserError) as caught:
        write_corrupted(tmp_path / "scenes", tmp_path / "out", names, severities, 0)
    assert str(caught.value) == line
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ published files


@pytest.fixture
def published(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of CIFAR-10-C, for the dataset `scenes`."""
    monkeypatch.chdir(tmp_path)
    labels = prepared(layout.DATA / "scenes", images)
    folder = tmp_path / "scenes-C"
    folder.mkdir()
    for name in ("fog", "frost"):
        np.save(folder / f"{name}.npy", np.concatenate([corrupt(images, name, level) for level in SEVERITIES]))
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return folder


def test_published_files_are_taken(published: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.corruptions.files.IMAGES", 4)
    wanted = {"names": ["frost"], "severities": [2, 5], "seed": 0, "engine": "normbench", "constants": "auto"}
    wanted["source"] = f"{published.parent}/{{dataset}}-C"
    files.write_json(layout.RESOLVED / "corruptions.json", wanted)
    stage.corrupt("scenes")
    folder = layout.CORRUPTED / "scenes"
    assert sorted(path.name for path in folder.iterdir()) == ["frost.npy", "labels.npy", "meta.json"]
    blocks = np.load(published / "frost.npy").reshape(5, *images.shape)
    np.testing.assert_array_equal(np.load(folder / "frost.npy"), np.concatenate([blocks[1], blocks[4]]))
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.load(published / "labels.npy")[: 2 * len(images)])
    meta = files.read_json(folder / "meta.json")
    assert meta.pop("sha256") == {"frost": hashlib.sha256((folder / "frost.npy").read_bytes()).hexdigest()}
    unknown = {"engine": None, "constants": None, "seed": None, "versions": {}}
    chosen = {"names": ["frost"], "severities": [2, 5], "published": str(published), "source_fingerprint": "f" * 64}
    assert meta == unknown | chosen


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no folder", "{}/labels.npy: no such file"),
        ("no array", "{}/fog.npy: no such file"),
        ("other labels", "{}/labels.npy: 2 of 30 labels are not those of the test images of scenes"),
        ("fewer labels", "{}/labels.npy: uint8 of shape (6,), but needs integers of shape (30,)"),
        ("real labels", "{}/labels.npy: float64 of shape (30,), but needs integers of shape (30,)"),
        ("one severity", "{}/fog.npy: uint8 of shape (6, 32, 32, 3), but scenes needs uint8 of shape (30, 32, 32, 3)"),
        ("type", "{}/fog.npy: float32 of shape (30, 32, 32, 3), but scenes needs uint8 of shape (30, 32, 32, 3)"),
        ("cut off", "{}/fog.npy: not an array that can be mapped: mmap length is greater than file size"),
        ("text", "{}/fog.npy: not an array that can be mapped: the magic string is not correct; *"),
        ("empty", "{}/fog.npy: not an array that can be mapped: EOF: reading magic string, *"),
        ("objects", "{}/fog.npy: not an array that can be mapped: Array can't be memory-mapped: Python objects *"),
    ],
)
def test_published_files_that_do_not_fit(published: Path, fault: str, line: str) -> None:
    fog, labels = published / "fog.npy", published / "labels.npy"
    known, content = np.load(labels), fog.read_bytes()
    if fault == "no folder":
        shutil.rmtree(published)
    elif fault == "no array":
        fog.unlink()
    elif fault in ("other labels", "fewer labels", "real labels"):
        changed = np.where(np.arange(30) < 2, 7, known)
        np.save(labels, {"o": changed, "f": known[:6], "r": known.astype(float)}[fault[0]])
    elif fault == "one severity":
        np.save(fog, np.load(fog)[:6])
    elif fault == "type":
        np.save(fog, np.load(fog).astype(np.float32))
    elif fault == "objects":
        np.save(fog, np.array([Trap()] * 30, object), allow_pickle=True)
    else:
        fog.write_bytes({"cut off": content[:-1], "text": b"a note, " * 20, "empty": b""}[fault])
    with pytest.raises(UserError) as caught:
        copy_published(layout.DATA / "scenes", layout.CORRUPTED / "scenes", ["fog"], [1], published)
    found = str(caught.value)
    assert fnmatch.fnmatchcase(found, line.format(published).replace("[", "[[]"))
    assert "\n" not in found
    assert not layout.CORRUPTED.exists()
    assert not Path("unpickled").exists()


# ---------------------------------------------------------------------------------------------------- the stage


def test_the_stage_starts_without_torch() -> None:
    code = (
        "import stages.corrupt, sys; print({'torch', 'scipy', 'cv2', 'skimage', 'imagecorruptions'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
