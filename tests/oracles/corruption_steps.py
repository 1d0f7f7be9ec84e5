"""Single steps of the corruptions, slow, from their formulas or by the library that the reference calls.

Values are in 0..1 and images are (H, W, C) where nothing else is said. Nothing here is shared with normbench."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.ndimage


def to_bytes(values: np.ndarray) -> np.ndarray:
    return np.trunc(np.clip(values, 0, 1) * 255).astype(np.uint8)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=4)


def enlarge(values: np.ndarray, factor: float) -> np.ndarray:
    size = np.array(values.shape[:2])
    crop = np.ceil(size / factor).astype(int)
    top, left = (size - crop) // 2
    middle = values[top : top + crop[0], left : left + crop[1]]
    # With scipy's default mode, which the reference has, a last pixel whose position rounds up is black.
    large = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1, mode="nearest")
    top, left = (large.shape[:2] - size) // 2
    return large[top : top + size[0], left : left + size[1]]


def move(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """Motion blur of grey levels: 16-bit rounding, then the upper 8 bits."""
    taps = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(taps)]
    x, y = taps * math.cos(math.radians(angle)), taps * math.sin(math.radians(angle))
    levels, total = image.astype(np.float64), np.zeros(image.shape)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    for i in range(taps):
        below = np.clip(rows + math.ceil(i * y / math.hypot(x, y) - 0.5), 0, len(image) - 1)
        right = np.clip(columns + math.ceil(i * x / math.hypot(x, y) - 0.5), 0, image.shape[1] - 1)
        total += weights[i] / sum(weights) * levels[below, right]
    sixteen = np.floor(total * 257 + 0.5)
    return (sixteen // 257).astype(np.uint8)


def uniforms(bits: np.ndarray) -> np.ndarray:
    return (bits + 0.5) / 2**32


def there_and_back(size: int) -> list[int]:
    """Positions turned back at the first and at the last: one period."""
    return [*range(size), *range(size - 2, 0, -1)]


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


def texture(number: int, scale: float, height: int, width: int) -> np.ndarray:
    """As OpenCV reads and scales it; enlarged where it would not be larger than an image of this size."""
    import cv2

    spec = importlib.util.find_spec("imagecorruptions")
    name = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")[number]
    whole = cv2.imread(str(Path(spec.submodule_search_locations[0]) / "frost" / name))[..., ::-1]
    small = cv2.resize(whole, (0, 0), fx=scale, fy=scale)
    if small.shape[0] <= height or small.shape[1] <= width:
        scale = max(1.1 * height / whole.shape[0], 1.1 * width / whole.shape[1])
        small = cv2.resize(whole, (0, 0), fx=scale, fy=scale)
    return small


def canny(layer: np.ndarray) -> np.ndarray:
    """With thresholds 50 and 150, sum of absolute derivatives; by angles where OpenCV compares integers."""
    size = layer.shape
    smooth, slope = np.array([1, 2, 1]), np.array([-1, 0, 1])
    padded = np.pad(layer.astype(int), 1, mode="edge")
    across, down, strength = np.zeros((3, *size), int)
    for y, x in np.ndindex(size):
        around = padded[y : y + 3, x : x + 3]
        across[y, x], down[y, x] = smooth @ around @ slope, slope @ around @ smooth
        strength[y, x] = abs(across[y, x]) + abs(down[y, x])
    framed = np.pad(strength, 1)
    kept = np.zeros(size, bool)
    for y, x in np.ndindex(size):
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
