"""The pictures of a GAN: samples of every finished run, real images laid out like them, and film strips."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.pictures import NOISES, at_size, grid
from normbench.runs.contents import FILM
from normbench.runs.record import Record, Stored
from normbench.suite.fid import pass_on
from normbench.system import files
from tests.results.made_up_suite import GAN_TASK, GAN_TIMES, SEEDS, edit, edit_metrics, film, place, save_film
from tests.results.page import Page
from tests.support.prepared import by_hand
from tests.support.records import record


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


def strips() -> dict[str, Path]:
    """The film strips that were drawn, by the end of their paths."""
    folder = Path(f"build/tables/films/{GAN_TASK}")
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.png"))}


def strip_of(variant: str, seed: int) -> Path:
    return place(variant, seed, "gan").with_suffix(".film.png")


def store_film(variant: str, seed: int) -> None:
    """Notes in a record what lies there as its film strip."""
    path = strip_of(variant, seed)
    own = Record.read(place(variant, seed, "gan"))
    stored = Stored(bytes=path.stat().st_size, sha256=files.sha256(path))
    edit(place(variant, seed, "gan"), files=own.files | {FILM: stored})


def without_film(variant: str, seed: int) -> None:
    """Makes a record that of a run of an earlier version."""
    path = place(variant, seed, "gan")
    if strip_of(variant, seed).is_file():
        strip_of(variant, seed).unlink()
    edit(path, files={name: stored for name, stored in Record.read(path).files.items() if name != FILM})


def test_the_film_strip_of_the_first_run_has_its_first_noises_with_every_pixel(suite: None) -> None:
    """The images have 16 x 16 pixels, which the training enlarges four times, and the report twice."""
    aggregate()
    assert list(strips()) == ["batch_norm/1.png", "spectral_norm_alone/0.png"]  # batch_norm with seed 0 diverged
    for (variant, seed), path in zip((("batch_norm", 1), ("spectral_norm_alone", 0)), strips().values(), strict=True):
        with Image.open(path) as opened:
            pixels = np.asarray(opened)
        assert pixels.shape == (NOISES * 34, len(GAN_TIMES) * 34)
        for row, images in enumerate(film(variant, seed)[:NOISES]):
            for column, image in enumerate(images):
                tile = pixels[34 * row : 34 * row + 34, 34 * column : 34 * column + 34]
                assert (tile[1:-1, 1:-1] == image.repeat(2, 0).repeat(2, 1)).all()
                assert (tile[[0, -1]] == 128).all()
                assert (tile[:, [0, -1]] == 128).all()


def test_the_page_has_a_strip_for_each_variant_with_its_iterations(suite: None) -> None:
    edit_metrics(
        place("spectral_norm_alone", 0, "gan"), lambda metrics: metrics.update(collapsed={"step": GAN_TIMES[2]})
    )
    aggregate()
    report()
    text = Path("results/report.html").read_text(encoding="utf-8")
    for path in strips().values():
        assert text.count(base64.b64encode(path.read_bytes()).decode()) == 1
    said = " ".join(Page(text).prose.split())
    assert f"batch_norm, seed 1: iterations {', '.join(map(str, GAN_TIMES))} " in said
    assert "spectral_norm_alone, seed 0, which collapsed: iterations" in said


def test_runs_without_a_film_strip_show_none(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in SEEDS:
        without_film("batch_norm", seed)
    without_film("spectral_norm_alone", 0)
    aggregate()
    assert list(strips()) == ["spectral_norm_alone/1.png"]
    for seed in SEEDS:
        without_film("spectral_norm_alone", seed)
    aggregate()
    assert strips() == {}
    report()
    assert "Samples over the training" not in Path("results/report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_film_strips_that_are_missing_or_damaged_are_named_and_left_out(
    suite: None, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, damaged = strip_of("spectral_norm_alone", 0), strip_of("spectral_norm_alone", 1)
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    aggregate()
    mend = f"`python -m stages.fid --task {GAN_TASK} --variant spectral_norm_alone` writes it; left out"
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{missing}: no such file; {mend}"
    assert second.startswith(f"{damaged}: ")
    assert second.endswith(mend)
    assert list(strips()) == ["batch_norm/1.png", "spectral_norm_alone/2.png"]
    report()
    assert "spectral_norm_alone, seed 2: iterations" in Path("results/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["another number of times", "another height", "no picture"])
def test_what_is_no_film_strip_of_the_run_is_named(suite: None, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        without_film("batch_norm", seed)
    without_film("spectral_norm_alone", 1)
    without_film("spectral_norm_alone", 2)
    path, images = strip_of("spectral_norm_alone", 0), film("spectral_norm_alone", 0)
    if what == "no picture":
        path.write_bytes(b"no picture")
    elif what == "another height":
        Image.new("L", (len(GAN_TIMES) * 66, 66 * 8 - 1)).save(path)
    else:
        save_film(images[:, 1:], path)
    store_film("spectral_norm_alone", 0)
    aggregate()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{path}: is no picture" if what == "no picture" else f"{path}: ")
    assert what == "no picture" or "are no film of 4 columns of images of 16x16" in said
    assert strips() == {}


def test_images_are_enlarged_and_reduced_by_whole_factors() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 70, 70, 3), np.uint8)
    small = at_size(images, 32)
    assert small.shape == (3, 35, 35, 3)
    assert small[1, 34, 2].tolist() == images[1, 68:70, 4:6].astype(float).mean((0, 1)).round().tolist()
    assert (at_size(images, 64) == images).all()
    assert (at_size(images[:, :10, :10], 32) == images[:, :10, :10].repeat(3, 1).repeat(3, 2)).all()


def test_the_stage_fid_passes_the_pictures_of_a_run_on(tmp_path: Path) -> None:
    """A run of an earlier version has no film strip."""
    own = record(kind="gan", seed=3)
    run, out = tmp_path / "run", tmp_path / "out"
    for folder in (run, out):
        folder.mkdir()
    for name in ("samples.png", "film.png", "generator.pt"):
        (run / name).write_bytes(name.encode())
    pass_on(own, run, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"3.png": b"samples.png"}
    pass_on(own.model_copy(update={"files": own.files | {FILM: own.files["samples.png"]}}), run, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "3.png": b"samples.png",
        "3.film.png": b"film.png",
    }


def test_pictures_of_the_suite_are_not_named_as_foreign(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    odd = strip_of("spectral_norm_alone", 0).with_name("0.other.png")
    odd.write_bytes(b"")
    aggregate()
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"{odd}: not of a run of the suite; left out"
