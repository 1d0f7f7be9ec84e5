"""The pictures of the report: samples of GANs and their film strips, real images, and one image under corruptions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from normbench.data import intact
from normbench.results.records import leave_out
from normbench.results.tables.contact_sheet import contact_sheet
from normbench.results.tables.means import Runs, finished
from normbench.results.tables.reading import command, place
from normbench.runs.contents import FILM, PICTURES, SAMPLES
from normbench.runs.finished import check
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.size import sides

SIDE = 8  # rows and columns of a grid of real images, as of samples
SHOWN = 64  # pixels: smaller images are enlarged by a whole factor
BORDER = 128  # the grey of the pixel around each image
# Of a film strip: how many of its noises the report shows, and the pixels that an image has there, if it can be brought
# there by a whole factor.
NOISES, SMALL = 4, 32


def copy_samples(runs: Runs, folder: Path) -> None:
    """Copies the grid of samples of each finished run of a GAN to `<folder>/<task>/<variant>/<seed>.png`.

    Samples that are missing, or that are not those that the training wrote, are named on stderr and left out.
    """
    bad: list[str] = []
    for (task, variant), records in runs.items():
        for record in finished(records):
            try:
                source = picture(task, variant, record, SAMPLES)
            except UserError as error:
                bad.append(str(error))
                continue
            target = folder / task / variant
            target.mkdir(parents=True, exist_ok=True)
            files.copy(source, target / source.name)
    leave_out(layout.SCORES, bad)


def draw_films(runs: Runs, folder: Path) -> None:
    """Draws `<folder>/<task>/<variant>/<seed>.png`, the film strip of the first run of each GAN that has one.

    A run that collapsed has one too; one that diverged, or is of an earlier version, does not. What is missing, or is
    not what the training wrote, is named on stderr and left out, and the next seed takes its place.
    """
    folder.mkdir()
    bad: list[str] = []
    for (task, variant), records in runs.items():
        for record in (each for each in records if FILM in each.files):
            try:
                strip = shortened(picture(task, variant, record, FILM), record)
            except UserError as error:
                bad.append(str(error))
                continue
            target = folder / task / variant
            target.mkdir(parents=True, exist_ok=True)
            files.put(target / f"{record.seed}.png", strip)
            break
    leave_out(layout.SCORES, bad)


def picture(task: str, variant: str, record: Record, name: str) -> Path:
    """Returns where a picture of a run lies.

    Raises UserError, with the command that mends it, if it is missing or is not the one that the training wrote.
    """
    found = place(Kind.GAN, task, variant, record.seed).with_suffix(PICTURES[name])
    try:
        if not found.is_file():
            raise UserError(f"{found}: no such file")
        check(found, record.files[name])
    except UserError as error:
        raise UserError(f"{error}; `{command(Kind.GAN, task, variant)}` writes it") from None
    return found


def shortened(path: Path, record: Record) -> bytes:
    """Returns a PNG of the first rows of a film strip, whose images are made smaller or larger for the report.

    path: the strip as the training writes it: a row for each noise, a column for each entry of the history, and images
    that are enlarged as those of samples are, with a border of one pixel. Raises UserError if it has another size.
    """
    height, width = sides(record.provenance.dataset.image_size)
    enlarged = max(1, SHOWN // height)
    down, across, columns = enlarged * height + 2, enlarged * width + 2, len(record.metrics["history"])
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("L" if opened.mode == "L" else "RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no picture: {error}") from None
    if pixels.shape[1] != columns * across or pixels.shape[0] % down:
        size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        raise UserError(f"{path}: {size} are no film of {columns} columns of images of {height}x{width}")
    tiles = pixels.reshape(-1, down, columns, across, 3 if pixels.ndim == 3 else 1).swapaxes(1, 2)
    images = tiles[:NOISES, :, 1:-1:enlarged, 1:-1:enlarged].reshape(-1, height, width, tiles.shape[-1])
    return sheet(at_size(images, SMALL), columns)


def draw_real_images(runs: Runs, folder: Path) -> None:
    """Draws `<folder>/<dataset>.png`, a grid of training images, for each prepared dataset of a GAN.

    Raises UserError if images are damaged.
    """
    folder.mkdir()
    for name in dict.fromkeys(record.provenance.dataset.name for records in runs.values() for record in records):
        data = layout.DATA / name
        if (data / "train_images.npy").is_file():
            intact.check(data, intact.meta(data)["fingerprint"])
            files.put(folder / f"{name}.png", grid(np.load(data / "train_images.npy", mmap_mode="r")))


def grid(images: np.ndarray) -> bytes:
    """Returns a PNG of some images of (N, H, W, C), evenly spaced in their order, laid out as samples of GANs are."""
    chosen = images[np.linspace(0, len(images) - 1, SIDE * SIDE).astype(int)]
    scale = max(1, SHOWN // chosen.shape[1])
    return sheet(chosen.repeat(scale, 1).repeat(scale, 2), SIDE)


def at_size(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images of (N, H, W, C) enlarged or reduced by a whole factor, to a height near `size`.

    A pixel of a reduced image is the mean of those that it stands for; what is left at the edges is cut off.
    """
    count, height, width, channels = images.shape
    enlarged, reduced = max(1, size // height), max(1, height // size)
    if reduced == 1:
        return images.repeat(enlarged, 1).repeat(enlarged, 2)
    down, across = height // reduced, width // reduced
    cut = images[:, : down * reduced, : across * reduced].astype(np.float64)
    means = cut.reshape(count, down, reduced, across, reduced, channels).mean((2, 4))
    return means.round().astype(np.uint8)


def sheet(images: np.ndarray, columns: int) -> bytes:
    """Returns a PNG of images of (rows * columns, H, W, 1 or 3), row by row, each with a border of one pixel."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=BORDER)
    count, height, width, channels = framed.shape
    whole = framed.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    whole = whole.reshape(count // columns * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(whole if channels == 3 else whole[:, :, 0]).save(buffer, format="PNG")
    return buffer.getvalue()


def draw_contact_sheets(datasets: list[str], folder: Path) -> None:
    """Draws `<folder>/<dataset>.png` for each dataset that has corrupted images.

    Raises UserError if images are damaged.
    """
    folder.mkdir()
    for name in datasets:
        if (layout.CORRUPTED / name / "meta.json").is_file():
            intact.check(layout.DATA / name, intact.meta(layout.DATA / name)["fingerprint"])
            intact.check_corrupted(intact.corrupted_meta(name))
            contact_sheet(layout.DATA / name, layout.CORRUPTED / name, folder / f"{name}.png")
