"""Pictures of deconvolution filters, for the report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from normbench.results.tables.filters import measured
from normbench.results.tables.means import Runs, finished
from normbench.system import files

SIDE, GAP = 120, 6  # pixels: about the side of a filter, which is enlarged by a whole factor; between two filters
EDGE = 150  # grey of the line around a filter, so that white ends somewhere on a white page
COLOURS = 3  # channels of images whose filters have colours
# Of the lowest weight, of zero and of the highest one: the ends differ to eyes that tell no red from green.
BLUE, WHITE, RED = np.array([[33, 102, 172], [255, 255, 255], [178, 24, 43]], float)


def draw_filters(runs: Runs, folder: Path) -> None:
    """Draws `<folder>/<task>/<variant>/<iterations>.png` for each variant with filters: those of its first such run."""
    folder.mkdir()
    for (task, variant), records in runs.items():
        found = next((each for record in finished(records) if (each := measured(record))), None)
        for after in found["after"] if found else []:
            place = folder / task / variant
            place.mkdir(parents=True, exist_ok=True)
            files.put(place / f"{after['iterations']}.png", picture(np.array(after["weights"])))


def picture(filters: np.ndarray) -> bytes:
    """Returns a PNG of filters (C, C, kh, kw), one for each channel, each over its largest absolute weight.

    A filter is a tile with the weights in its own channel: from blue, the negative of the largest, over white, zero, to
    red. With three channels, a second row shows the filters as colours, where zero is grey. Pixels are enlarged by a
    whole factor, and nothing is smoothed. A line of a pixel is around each tile, and transparency between them.
    """
    scaled = filters / np.abs(filters).max((1, 2, 3), keepdims=True)
    rows = [[diverging(each[channel]) for channel, each in enumerate(scaled)]]
    if len(filters) == COLOURS:
        rows.append([np.moveaxis(127.5 + 127.5 * each, 0, 2) for each in scaled])
    height, width = filters.shape[2:]
    factor = max(1, SIDE // max(height, width))
    high, wide = factor * height + 2, factor * width + 2
    sheet = np.zeros((len(rows) * (high + GAP) - GAP, len(filters) * (wide + GAP) - GAP, 4), np.uint8)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            place = sheet[row * (high + GAP) :][:high, column * (wide + GAP) :][:, :wide]
            place[...] = (EDGE, EDGE, EDGE, 255)
            place[1:-1, 1:-1, :3] = tile.round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def diverging(values: np.ndarray) -> np.ndarray:
    """Returns the colours (kh, kw, 3), in 0..255, of values (kh, kw) in -1..1."""
    strength, ends = np.abs(values)[..., None], np.where(values[..., None] < 0, BLUE, RED)
    return WHITE + strength * (ends - WHITE)
