"""The pictures of the report: samples of GANs, and one image under every corruption."""

from __future__ import annotations

from pathlib import Path

from normbench.data import intact
from normbench.results.tables.contact_sheet import contact_sheet
from normbench.results.tables.means import Runs, finished
from normbench.results.tables.reading import command, place
from normbench.runs.contents import SAMPLES
from normbench.runs.finished import check
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.errors import UserError


def copy_samples(runs: Runs, folder: Path) -> None:
    """Copies a grid of samples of each GAN variant to `<folder>/<task>/<variant>/<seed>.png`.

    It is always that of the first finished run in the order of seeds, so that no run is chosen for its looks. Raises
    UserError if that run has no samples, or if they are not those that its training wrote.
    """
    for (task, variant), records in runs.items():
        done = finished(records)
        if done:
            source = place(Kind.GAN, task, variant, done[0].seed).with_suffix(".png")
            if not source.is_file():
                raise UserError(f"{source}: no such file; `{command(Kind.GAN, task, variant)}`")
            check(source, done[0].files[SAMPLES])
            target = folder / task / variant
            target.mkdir(parents=True)
            files.copy(source, target / source.name)


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
