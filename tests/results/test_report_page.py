"""The page as a whole: that it stands alone, shows the numbers of the tables, and marks what is clearly best."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.results.best import clear_best
from normbench.results.report import render, report
from normbench.results.tables import aggregate
from normbench.results.words import quantity
from normbench.system import files
from tests.results.made_up_suite import (
    GAN_VARIANTS,
    SEEDS,
    classification_record,
    finished,
    place,
    write_suite,
)
from tests.results.page import Page
from tests.support.prepared import by_hand
from tests.support.records import change, corrupted_images


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    found = Page(page)
    assert "script" not in found.seen
    assert "link" not in found.seen
    assert len(found.ids) == len(set(found.ids))
    inner = [load.removeprefix("#") for load in found.loads if load.startswith("#")] + found.uses
    assert inner
    assert set(inner) <= set(found.ids)
    rest = [load for load in found.loads if not load.startswith("#")]
    assert len(rest) == len(GAN_VARIANTS)
    assert all(load.startswith("data:image/png;base64,") for load in rest)
    assert all(link.startswith("https://arxiv.org/abs/") for link in found.links)
    assert len(re.findall(r"https?://", page)) == len(found.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(?<![\w.\"=)])/(home|tmp|root|work|usr)/", page)


def test_page_has_the_numbers_and_marks_only_a_clear_best(page: str) -> None:
    found = Page(page)
    shown = {row[0].strip(): [cell.strip() for cell in row] for row in found.rows if len(row) == 9}
    clean = [run.metrics["clean_accuracy"] for run in finished("network_deconvolution")]
    best = shown["network_deconvolution"]
    assert best[1] == f"{100 * statistics.mean(clean):.2f} ± {100 * statistics.stdev(clean):.2f}"
    assert shown["batch_normbaseline"][3] == "100.0"
    dash = "\N{EN DASH}"
    assert shown["spectral_norm"][1:] == [dash, dash, dash, dash, "62.8", "77,530", dash, "diverged 3/3"]
    assert [name.strip() for name in found.marked] == ["network_deconvolution"] * 2 + ["spectral_norm_alone"]
    assert found.seen >= {"svg", "figure", "dl", "h2"}
    assert page.count('role="img"') == 4 + 3
    assert "arXiv 2103.00673" in page
    assert "5a5a5a5a5a5a5a5a" in page
    assert "0123456789ab</code> with uncommitted changes" in page


def test_page_is_the_same_for_the_same_tables(page: str, folder: Path) -> None:
    assert render(folder / "build/tables") == page


@pytest.mark.parametrize(
    ("second", "clear"),
    [((0.90, 0.01), True), ((0.93, 0.02), False), ((0.94, math.nan), True), ((math.nan, math.nan), False)],
)
def test_best_is_clear_only_beyond_both_spreads(second: tuple[float, float], clear: bool) -> None:
    values = {"a": (0.95, 0.005), "b": second}
    listed = [{"variant": name, "x": mean, "x_std": deviation} for name, (mean, deviation) in values.items()]
    assert (clear_best(listed, "x", True) == "a") is clear
    mirrored = [row | {"x": -row["x"]} for row in listed]
    assert (clear_best(mirrored, "x", False) == "a") is clear


def test_best_needs_a_spread_of_its_own() -> None:
    listed = [{"variant": "a", "x": 0.9, "x_std": math.nan}, {"variant": "b", "x": 0.5, "x_std": 0.01}]
    assert clear_best(listed, "x", True) is None


def test_names_that_pandas_or_html_would_read_otherwise(suite: None) -> None:
    names = ["batch_norm", "NA", "1", "null"]
    write_suite(variants=names)
    for name in names[1:]:
        for seed in SEEDS:
            found = classification_record("conv_norm", seed)
            method = {"method": "my_methods/<b>.py:Mine & Yours"}
            change(found, provenance={"variant": method}).write(place(name, seed))
    aggregate()
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert {"NA", "1", "null"} <= {row[0].strip() for row in Page(page).rows if len(row) == 9}
    assert "my_methods/&lt;b&gt;.py:Mine &amp; Yours" in page


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (math.nan, math.nan, "\N{EN DASH}"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (999.0, math.nan, "999.00"),
        (28_091.3, 4_401.69, "2.81 ± 0.44 \N{MULTIPLICATION SIGN}104"),
        (4.3e7, 5.8e7, "4.30 ± 5.80 \N{MULTIPLICATION SIGN}107"),
    ],
)
def test_large_numbers_have_a_power_of_ten(mean: float, deviation: float, text: str) -> None:
    assert quantity(mean, deviation).striptags() == text


def test_a_picture_of_the_corruptions(suite: None) -> None:
    """A row for each corruption, clean image first; none for a dataset whose corrupted images are not there."""
    write_suite(variants=["batch_norm"])
    aggregate()
    assert "The corruptions of" not in render(Path("build/tables"))
    data, corrupted = Path("build/data/digits"), Path("build/corrupted/digits")
    data.mkdir(parents=True)
    corrupted.mkdir(parents=True)
    arrays = {f"{split}_images": np.zeros((4, 8, 8, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(4) for split in ("train", "test")}
    for name, array in arrays.items():
        np.save(data / f"{name}.npy", array)
    files.write_json(data / "meta.json", {"fingerprint": by_hand(arrays)})
    for number, name in enumerate(("contrast", "fog")):
        np.save(corrupted / f"{name}.npy", np.full((2 * 4, 8, 8, 1), 100 + 50 * number, np.uint8))
    facts = corrupted_images(["contrast", "fog"], [1, 5]).model_dump(exclude={"path"})
    sha256 = {name: files.sha256(corrupted / f"{name}.npy") for name in ("contrast", "fog")}
    files.write_json(corrupted / "meta.json", facts | {"sha256": sha256})
    aggregate()
    with Image.open("build/tables/corrupted/digits.png") as picture:
        colours = {colour[:3] for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0, 0, 0), (100, 100, 100), (150, 150, 150)} <= colours
    assert "The corruptions of digits" in render(Path("build/tables"))
