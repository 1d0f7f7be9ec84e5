"""Pictures for the report: some test images, their masks, and what each variant predicts, a colour for each class."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np

from normbench.data import intact
from normbench.data.pixels import IGNORED
from normbench.results.records import leave_out
from normbench.results.tables.means import Runs, finished
from normbench.results.tables.pictures import sheet
from normbench.results.tables.reading import command, place
from normbench.results.tables.segmentation import task_of
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.segmentation.protocol import protocol
from normbench.system import arrays, files, layout
from normbench.system.errors import UserError

TALLEST = 180  # pixels of an image; larger ones are thinned by a whole factor
BLACK = (0, 0, 0)  # of pixels that count nowhere
IMAGES, TRUTH = "images", "truth"  # the pictures beside those of the variants, which are in a folder of their own


def draw_masks(runs: Runs, folder: Path) -> None:
    """Draws `<task>/images.png`, `<task>/truth.png` and `<task>/variants/<variant>.png`, a row for each test image.

    They are those that the evaluation has kept the predictions of, in the first finished run of each variant. What is
    missing or damaged is named on stderr and left out.
    """
    folder.mkdir()
    bad: list[str] = []
    for (task, variant), records in runs.items():
        for record in finished(records)[:1]:
            try:
                draw(task, variant, record, folder / task)
            except UserError as error:
                bad.append(f"{error}; `{command(Kind.SEGMENTATION, task, variant)}` writes it")
    leave_out(layout.SCORES, bad)


def draw(task: str, variant: str, record: Record, folder: Path) -> None:
    """Draws the pictures of a run. Raises UserError if the predictions or the dataset cannot be read."""
    path = place(Kind.SEGMENTATION, task, variant, record.seed).with_suffix(".npz")
    found = arrays.read_npz(path, ("shown", "masks"))
    bound, chosen = record.provenance.dataset, protocol(task_of(record).recipe, record.provenance.dataset)
    shown, masks = found["shown"], found["masks"]
    if masks.shape != (len(shown), chosen.height, chosen.width) or masks.dtype != np.uint8 or masks.max() >= 255:
        raise UserError(f"{path}: predicted masks of {masks.dtype} {masks.shape}")
    if not np.isin(shown, np.arange(bound.test)).all():
        raise UserError(f"{path}: shows other images than {bound.test} test images")
    palette = colours(chosen.classes, chosen.void)
    (folder / "variants").mkdir(parents=True, exist_ok=True)
    files.put(folder / "variants" / f"{variant}.png", strip(palette[masks]))
    data = layout.DATA / bound.name
    if not (folder / f"{IMAGES}.png").exists() and (data / "test_images.npy").is_file():
        intact.check(data, bound.fingerprint)
        images = np.load(data / "test_images.npy", mmap_mode="r")[shown]
        truth = np.load(data / "test_masks.npy", mmap_mode="r")[shown]
        files.put(folder / f"{IMAGES}.png", strip(np.broadcast_to(images, (*images.shape[:3], 3))))
        files.put(folder / f"{TRUTH}.png", strip(palette[chosen.masks(truth)]))


def strip(images: np.ndarray) -> bytes:
    """Returns a PNG of images of (N, H, W, 3), one below the other."""
    every = -(-images.shape[1] // TALLEST)
    return sheet(images[:, ::every, ::every], 1)


def colours(classes: int, void: bool) -> np.ndarray:
    """Returns the colour of each class, uint8 (256, 3); of pixels that count nowhere, and of void, it is black.

    The hues are spread by the golden section, so that neighbours differ, in three steps of lightness.
    """
    found = np.zeros((256, 3), np.uint8)
    for label in range(classes):
        hue, lightness = label * 0.618034 % 1, (0.5, 0.36, 0.68)[label % 3]
        found[label] = [round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.75)]
    if void:
        found[0] = BLACK
    found[IGNORED] = BLACK
    return found


def legend(names: list[str], void: bool) -> list[tuple[str, str]]:
    """Returns the colour of each class as `#rrggbb`, with its name. void: whether class 0 is void."""
    palette = colours(len(names), void)
    return [("#" + bytes(palette[label]).hex(), name) for label, name in enumerate(names)]
