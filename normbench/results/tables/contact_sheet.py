"""A picture of one image under every corruption and severity."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from normbench.data.bound import Corrupted
from normbench.suite.copies import maker_of
from normbench.system import files
from normbench.system.text import clean

# No text is parsed as TeX or mathtext: a corruption may be called `$\\bad$`.
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}
SHOWN = 56  # pixels: about the height at which images are shown; smaller ones are enlarged by a whole factor
WIDTH = 1100  # pixels: the sheet is no wider, unless a single column is
GAP = 4  # pixels between images
DPI = 110
FONT_SIZE, LETTER = 8, 8  # of labels in points; pixels that one letter takes at most


def contact_sheet(data: Path, corrupted: Path, out: Path, index: int = 0) -> None:
    """Draws a test image of a prepared dataset, clean and corrupted.

    The clean image comes first, and then for each corruption a strip with its name and an image for each severity; the
    strips flow in columns. data: the folder of the dataset. corrupted: the folder of its corrupted images. out: the PNG
    to write. index: number of the image.
    """
    meta = files.read_json(corrupted / "meta.json")
    images = np.load(data / "test_images.npy", mmap_mode="r")
    strips = [("clean", [shown(images[index])])]
    unstored = meta.get("computed") is not None
    make = maker_of(Corrupted.model_validate({"path": str(corrupted), **meta}), data) if unstored else None
    for name in meta["names"]:
        if make is not None:
            strip = [make(name, severity, np.array([index]))[0] for severity in meta["severities"]]
        else:
            stored = np.load(corrupted / f"{name}.npy", mmap_mode="r")
            strip = [stored[level * len(images) + index] for level in range(len(meta["severities"]))]
        strips.append((name, [shown(image) for image in strip]))
    with rc_context(PLAIN_TEXT):
        _draw(strips, out)


def shown(image: np.ndarray) -> np.ndarray:
    """Returns an image (H, W, 1 or 3) as it is drawn: in colour, and enlarged or thinned by a whole factor."""
    scale, every = max(1, SHOWN // image.shape[0]), max(1, image.shape[0] // (2 * SHOWN))
    image = image[::every, ::every]
    return np.broadcast_to(image, (*image.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)


def _draw(strips: list[tuple[str, list[np.ndarray]]], out: Path) -> None:
    """Draws the sheet, pixel for pixel. strips: labels with images, all of one size."""
    labels = [clean(name.replace("_", " ")) for name, _ in strips]
    height, width = strips[0][1][0].shape[:2]
    margin = LETTER * max(map(len, labels)) + 2 * GAP
    down, across = height + GAP, margin + max(len(images) for _, images in strips) * (width + GAP)
    columns = max(1, min(len(strips), WIDTH // across))
    rows = -(-len(strips) // columns)
    columns = -(-len(strips) // rows)
    sheet = np.full((rows * down + GAP, columns * across, 3), 255, np.uint8)

    figure = Figure(figsize=(sheet.shape[1] / DPI, sheet.shape[0] / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, (label, images) in enumerate(zip(labels, (images for _, images in strips), strict=True)):
        top, left = GAP + place % rows * down, place // rows * across + margin
        for number, image in enumerate(images):
            start = left + number * (width + GAP)
            sheet[top : top + height, start : start + width] = image
        axes.text(left - 2 * GAP, top + height / 2, label, ha="right", va="center", fontsize=FONT_SIZE)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    files.put(out, buffer.getbuffer())
