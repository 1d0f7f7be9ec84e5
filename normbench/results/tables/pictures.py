"""The pictures of the report: samples of GANs, real images beside them, and one image under every corruption."""

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
from normbench.runs.contents import SAMPLES
from normbench.runs.finished import check
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.errors import UserError

SIDE = 8  # rows and columns of a grid of real images, as of samples
SHOWN = 64  # pixels: smaller images are enlarged by a whole factor


def copy_samples(runs: Runs, folder: Path) -> None:
    """Copies the grid of samples of each finished run of a GAN to `<folder>/<task>/<variant>/<seed>.png`.

    Samples that are missing, or that are not those that the training wrote, are named on stderr and left out.
    """
    bad: list[str] = []
    for (task, variant), records in runs.items():
        for record in finished(records):
            source = place(Kind.GAN, task, variant, record.seed).with_suffix(".png")
            try:
                if not source.is_file():
                    raise UserError(f"{source}: no such file")
                check(source, record.files[SAMPLES])
            except UserError as error:
                bad.append(f"{error}; `{command(Kind.GAN, task, variant)}` writes it")
                continue
            target = folder / task / variant
            target.mkdir(parents=True, exist_ok=True)
            files.copy(source, target / source.name)
    leave_out(layout.SCORES, bad)


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
    framed = np.pad(chosen.repeat(scale, 1).repeat(scale, 2), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    _, height, width, channels = framed.shape
    sheet = framed.reshape(SIDE, SIDE, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(SIDE * height, SIDE * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(sheet if channels == 3 else sheet[:, :, 0]).save(buffer, format="PNG")
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
