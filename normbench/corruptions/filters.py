"""Images filtered with fixed weights, as bytes: fast, and the bytes of the reference's arithmetic.

The reference filters in double precision, one tap after the other, and truncates. Here the sums are in another order,
mostly OpenCV's. Where their rounding errors could change a byte, the pixel is computed again in the reference's order.
So the bytes do not depend on OpenCV, its version, or the instructions that the CPU has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from normbench.corruptions.operators import (
    DOUBLES,
    SINGLE_ROUNDING,
    UNIT,
    WINDOWS,
    Border,
    Bytes,
    Floats,
    Places,
    Singles,
    gaussian_weights,
    plain,
    quantise,
    settled,
    symmetric_sum,
    windows_at,
)

Bools = NDArray[np.bool_]

MANY = 64  # With more pixels in question than one of so many, even areas are looked for: their results are in a table.


def smooth(images: Bytes, sigma: float) -> Bytes:
    """Smooths images (N, H, W, C) as `operators.gaussian` does; the outer pixels are repeated outside of the image."""
    import cv2

    weights = gaussian_weights(sigma)
    if len(weights) == 1:
        return images.copy()
    levels = np.empty(images.shape)
    for image, target in zip(plain(images), plain(levels), strict=True):
        cv2.sepFilter2D(image, cv2.CV_64F, weights, weights, dst=target, borderType=cv2.BORDER_REPLICATE)

    def total(windows: Floats) -> Floats:
        return symmetric_sum(symmetric_sum(windows, weights), weights)

    return settled(levels, DOUBLES, functools.partial(_exact, images, len(weights) // 2, "edge", total))


class SmoothDisk:
    """A kernel that is about a smoothed disk, and how to correlate images with it.

    kernel: (2 * reach + 1, 2 * reach + 1) in single precision, nothing below 0, with a sum of about 1. radius: that of
    the disk, in pixels. weights: those that the disk was smoothed with along both axes, (2 * taps + 1,).

    The sums over the disk are sums of whole columns, each built up from that of the next shorter one, in whole numbers.
    They are smoothed, and what the kernel differs from a smoothed disk (at the border of the grid that it was smoothed
    on) is added.
    """

    def __init__(self, kernel: Singles, radius: float, weights: Floats):
        self.kernel = kernel.astype(np.float64)
        self.reach, taps = len(kernel) // 2, len(weights) // 2
        self.taps = taps
        side = np.arange(-self.reach - taps, self.reach + taps + 1)
        disk = (side[:, None] ** 2 + side**2 <= radius * radius).astype(np.float64)
        middle = len(side) // 2
        # How far the disk goes up and down at each distance to the left and right.
        self.heights = [int(column.sum()) // 2 for column in disk[middle:] if column.any()]
        smoothing = sum(weight * np.eye(len(side), k=i - taps) for i, weight in enumerate(weights))
        smoothed = smoothing @ disk @ smoothing.T
        factor = self.kernel[self.reach, self.reach] / smoothed[middle, middle]
        self.row_weights, self.column_weights = weights, weights * factor
        rest = np.pad(self.kernel, taps) - factor * smoothed
        # The grid's border changes the kernel at the four ends of its axes, so these are in parts of their own.
        wide = (len(self.heights) + taps) // 2
        self.rest = []
        self.error = DOUBLES + 256 * float(np.abs(rest).sum())
        ends = [middle - wide, middle + wide + 1]
        for rows in np.split(np.arange(len(side)), ends):
            for columns in np.split(np.arange(len(side)), ends):
                part = rest[np.ix_(rows, columns)]
                size = float(np.abs(part).sum())
                if size > 1e-6:
                    seen = np.abs(part) > 1e-8
                    inner = np.ix_(seen.any(axis=1), seen.any(axis=0))
                    tile = (part * seen)[inner].astype(np.float32)
                    top, left = rows[seen.any(axis=1)][0], columns[seen.any(axis=0)][0]
                    self.rest.append((int(top), int(left), tile))
                    self.error += SINGLE_ROUNDING * 2 * (tile.size + 4) * size - 256 * float(np.abs(tile).sum())

    def __call__(self, images: Bytes) -> Bytes:
        """Returns the images (N, H, W, C), filtered; outside of the image, the image is mirrored."""
        import cv2

        height, width = images.shape[1:3]
        margin = self.reach + self.taps
        padded = np.pad(images, [(0, 0), (margin, margin), (margin, margin), (0, 0)], mode="reflect")
        values = padded.astype(np.float32) if self.rest else padded
        sums = self._disk_sums(padded)
        levels = np.empty(images.shape)
        for given, around, target in zip(plain(values), plain(sums), plain(levels), strict=True):
            smoothed = cv2.sepFilter2D(around, cv2.CV_64F, self.row_weights, self.column_weights)
            smoothed = smoothed[margin : margin + height, margin : margin + width]
            parts = []
            for row, column, tile in self.rest:
                under = given[row : row + height + len(tile), column : column + width + tile.shape[1]]
                parts.append(cv2.filter2D(under, -1, tile, anchor=(0, 0))[:height, :width])
            for part in parts[1:]:
                parts[0] += part
            np.add(smoothed, parts[0] if parts else 0, out=target)
        np.minimum(levels, 255.5, out=levels)  # the sum of the kernel may be a little above 1

        def total(windows: Floats) -> Floats:
            return np.add.accumulate((windows * self.kernel[..., None]).reshape(-1, windows.shape[-1]), axis=0)[-1]

        return settled(levels, self.error, functools.partial(_exact, images, self.reach, "reflect", total))

    def _disk_sums(self, images: Bytes) -> NDArray[np.uint16] | Singles:
        """Returns the sum over the disk around each pixel (N, H, W, C), undefined where it does not fit."""
        _, _, width, channels = images.shape
        line = width * channels
        flat = images.reshape(-1).astype(np.uint16)
        # Sums over columns of pixels, for all places in the flat array with as many rows above and below.
        margin = self.heights[0] * line
        columns = flat[margin : flat.size - margin].copy()
        inner = (len(self.heights) - 1) * channels
        parts: list[NDArray[np.uint16]] = []
        height, room = 0, 0
        for across in range(len(self.heights) - 1, -1, -1):
            for row in range(height + 1, self.heights[across] + 1):
                columns += flat[margin - row * line : flat.size - margin - row * line]
                columns += flat[margin + row * line : flat.size - margin + row * line]
            height = self.heights[across]
            for shift in {-across, across}:
                if room < 2 * height + 1:
                    parts.append(np.zeros_like(flat))
                    room = 65535 // 255
                room -= 2 * height + 1
                start = inner + shift * channels
                sums = parts[-1][margin + inner : flat.size - margin - inner]
                sums += columns[start : start + sums.size]
        if len(parts) == 1:
            return parts[0].reshape(images.shape)
        total = parts[0].astype(np.float32)
        for part in parts[1:]:
            total += part
        return total.reshape(images.shape)


def _exact(images: Bytes, reach: int, border: Border, total: Callable[[Floats], Floats], places: Places) -> Bytes:
    """Returns the grey levels of filtered images (N, H, W, C) at flat indices.

    total: computes the results (M,), in 0..1, of M pixels from the values of all pixels at most `reach` rows and
    columns away, (2 * reach + 1, 2 * reach + 1, M).
    """
    side = 2 * reach + 1
    result, uneven = np.empty(len(places), np.uint8), np.arange(len(places))
    if len(places) > images.size // MANY:
        table = quantise(total(np.broadcast_to(UNIT, (side, side, len(UNIT)))))
        result = table.take(images.reshape(-1)[places])
        uneven = np.flatnonzero(~_even(images, reach).reshape(-1)[places])
    step = max(1, WINDOWS // side**2)
    for start in range(0, len(uneven), step):
        part = uneven[start : start + step]
        windows = windows_at(images, places[part], (reach, reach), border)
        result[part] = quantise(total(UNIT.take(windows)))
    return result


def _even(images: Bytes, reach: int) -> Bools:
    """Whether all pixels at most `reach` rows and columns away have the value of the pixel: (N, H, W, C)."""
    import cv2

    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    result = [cv2.dilate(image, window) == cv2.erode(image, window) for image in images]
    return np.stack(result).reshape(images.shape)
