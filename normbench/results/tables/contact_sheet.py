"""A picture of one image under every corruption and severity."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from normbench.results.drawing import PLAIN_TEXT
from normbench.system import files
from normbench.system.text import clean

CELL = 0.52  # height of an image in the picture, in inches
GAP = 0.06  # distance between images, relative to their height


def contact_sheet(data: Path, corrupted: Path, out: Path, index: int = 0) -> None:
    """Draws a test image of a prepared dataset, clean and corrupted.

    There is a row for each corruption, with the clean image and then one column for each severity. data: the folder of
    the dataset. corrupted: the folder of its corrupted images. out: the PNG to write. index: number of the image.
    """
    meta = files.read_json(corrupted / "meta.json")
    clean = np.load(data / "test_images.npy", mmap_mode="r")
    names, severities = meta["names"], meta["severities"]
    height, width = clean.shape[1:3]
    gap = max(1, round(GAP * height))
    down, across = height + gap, width + gap
    sheet = np.full((len(names) * down, (1 + len(severities)) * across, 3), 255, np.uint8)
    for row, name in enumerate(names):
        stored = np.load(corrupted / f"{name}.npy", mmap_mode="r")
        shown = [clean[index], *(stored[level * len(clean) + index] for level in range(len(severities)))]
        for column, image in enumerate(shown):
            sheet[row * down : row * down + height, column * across : column * across + width] = image
    with rc_context(PLAIN_TEXT):
        _draw(sheet, names, severities, (down, across), (height, width), out)


def _draw(
    sheet: np.ndarray, names: list[str], severities: list[int], step: tuple[int, int], size: tuple[int, int], out: Path
) -> None:
    """Draws the sheet of images (H, W, 3) with its labels. step, size: height and width of a cell and of its image."""
    (down, across), (height, width) = step, size
    figure = Figure(
        figsize=(CELL * width / height * (1 + len(severities)) + 1.6, CELL * len(names) + 0.4), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_xticks([across * i + width / 2 for i in range(1 + len(severities))], ["clean", *map(str, severities)])
    axes.set_yticks(
        [down * i + height / 2 for i in range(len(names))], [clean(name.replace("_", " ")) for name in names]
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8)
    axes.set_frame_on(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    files.put(out, buffer.getbuffer())
