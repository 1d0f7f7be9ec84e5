"""The pictures of a GAN: the samples of every finished run, and real images laid out like them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.pictures import grid
from normbench.system import files
from tests.results.made_up_suite import GAN_TASK, place
from tests.results.page import Page
from tests.support.prepared import by_hand


def test_samples_of_every_finished_run_are_there(suite: None) -> None:
    aggregate()
    found = sorted(
        str(path.relative_to("build/tables/samples")) for path in Path("build/tables/samples").rglob("*.png")
    )
    seeds = {"batch_norm": [1, 2], "spectral_norm_alone": [0, 1, 2]}  # one run of batch_norm diverged
    assert found == [f"{GAN_TASK}/{name}/{seed}.png" for name, each in seeds.items() for seed in each]
    for name, each in seeds.items():
        for seed in each:
            copied = Path(f"build/tables/samples/{GAN_TASK}/{name}/{seed}.png").read_bytes()
            assert copied == place(name, seed, "gan").with_suffix(".png").read_bytes()


@pytest.mark.parametrize(("count", "channels", "side"), [(64, 3, 32), (1000, 1, 12), (5, 1, 70)])
def test_real_images_are_whole_and_in_order(count: int, channels: int, side: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (count, side, side, channels), np.uint8)
    with Image.open(io.BytesIO(grid(images))) as picture:
        pixels = np.asarray(picture)
    scale = max(1, 64 // side)
    step = scale * side + 2
    assert pixels.shape[:2] == (8 * step, 8 * step)
    shown = []
    for row in range(8):
        for column in range(8):
            part = pixels[
                row * step + 1 : row * step + step - 1 : scale, column * step + 1 : column * step + step - 1 : scale
            ]
            (match,) = np.flatnonzero((images == part.reshape(side, side, channels)).all((1, 2, 3)))
            shown.append(int(match))
    assert shown == sorted(shown)
    assert shown[0] == 0
    assert shown[-1] == count - 1


def test_real_images_of_the_dataset_stand_beside_the_samples(suite: None) -> None:
    arrays = {f"{split}_images": np.full((4, 8, 8, 1), 77, np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(4) for split in ("train", "test")}
    for name, array in arrays.items():
        np.save(f"build/data/digits/{name}.npy", array)
    files.write_json("build/data/digits/meta.json", {"fingerprint": by_hand(arrays)})
    aggregate()
    with Image.open("build/tables/real/digits.png") as picture:
        assert {colour for _, colour in picture.getcolors()} == {77, 128}


def test_samples_that_are_missing_or_damaged_are_named_and_left_out(
    suite: None, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, damaged = (place("spectral_norm_alone", seed, "gan").with_suffix(".png") for seed in (0, 2))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    aggregate()
    mend = f"`python -m stages.fid --task {GAN_TASK} --variant spectral_norm_alone` writes it; left out"
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{missing}: no such file; {mend}"
    assert second.startswith(f"{damaged}: ")
    assert second.endswith(mend)
    left = sorted(path.name for path in Path(f"build/tables/samples/{GAN_TASK}/spectral_norm_alone").iterdir())
    assert left == ["1.png"]
    report()
    page = Page(Path("results/report.html").read_text(encoding="utf-8")).prose
    assert "missing or damaged: spectral_norm_alone, seed 0; spectral_norm_alone, seed 2." in page
