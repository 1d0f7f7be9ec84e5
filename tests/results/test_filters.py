"""results/filters.csv and the pictures of filters, by hand, and what the page shows of them."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.results.report import render
from normbench.results.tables import aggregate
from normbench.results.tables.filter_pictures import EDGE, GAP, SIDE, picture
from tests.results.made_up_suite import FILTERED, SEEDS, TASK, VARIANTS, edit_metrics, filters, place, rows
from tests.results.page import Page

RED, BLUE, WHITE = [178, 24, 43], [33, 102, 172], [255, 255, 255]


def in_colour() -> dict[str, Any]:
    """The metric of images of three channels."""
    found = filters()
    for after in found["after"]:
        own = np.array(after["weights"])[0, 0]
        weights = np.zeros((3, 3, 3, 3))
        for channel in range(3):
            weights[channel, channel] = own
            weights[channel, (channel + 1) % 3, 1, 1] = -1
        after |= {"weights": weights.tolist(), "others": -0.25}
    return found


def test_a_row_for_each_run_and_number_of_iterations(suite: None) -> None:
    aggregate()
    found = rows("results/filters.csv")
    assert [(row["task"], row["variant"], row["seed"], row["iterations"]) for row in found] == [
        (TASK, FILTERED, str(seed), iterations) for seed in SEEDS for iterations in ("5", "15")
    ]
    numbers = ["centre", "ring", "sum", "kurtosis_before", "kurtosis_after", "near_zero_before", "near_zero_after"]
    assert list(found[0]) == ["task", "variant", "seed", "iterations", "own_iterations", *numbers, "missing"]
    for row in found:
        few = row["iterations"] == "5"
        assert row["own_iterations"] == "5"
        assert [float(row[name]) for name in numbers] == (
            [2, -0.125, 0.5, -0.5, 0.75, 0.07, 0.14] if few else [2, -0.375, 0, -0.5, 10.5, 0.07, 0.24]
        )
        assert row["missing"] == "others: images of one channel"


def test_empty_cells_say_why(suite: None) -> None:
    def constant(metrics: dict[str, Any]) -> None:
        metrics["filters"] = in_colour()
        metrics["filters"]["pixels"] = {"kurtosis": None, "near_zero": None}

    edit_metrics(place(FILTERED, 1), constant)
    aggregate()
    found = {row["seed"]: row for row in rows("results/filters.csv") if row["iterations"] == "15"}
    assert found["0"]["missing"] == "others: images of one channel"
    assert (found["1"]["others"], found["1"]["kurtosis_before"], found["1"]["near_zero_before"]) == ("-0.25", "", "")
    assert found["1"]["missing"] == "kurtosis_before, near_zero_before: next to no variance"


@pytest.mark.parametrize("change", [{"version": 2}, None], ids=["another version", "not measured"])
def test_without_filters_there_is_no_section(suite: None, change: dict[str, int] | None) -> None:
    for seed in SEEDS:
        if change is None:
            edit_metrics(place(FILTERED, seed), lambda metrics: metrics.pop("filters"))
        else:
            edit_metrics(place(FILTERED, seed), lambda metrics: metrics["filters"].update(change))
    aggregate()
    assert rows("results/filters.csv") == []
    assert list(Path("build/tables/filters").iterdir()) == []
    assert "Deconvolution filters" not in Page(render(Path("build/tables"))).prose


def tiles(content: bytes, side: int, pixels: int) -> np.ndarray:
    """The colours of the middles of the pixels of square filters: (rows, columns, side, side, 4).

    side: of a filter. pixels: by which a pixel is enlarged. Everything else of the picture is checked here.
    """
    whole = np.array(Image.open(io.BytesIO(content)))
    tile = side * pixels + 2
    down, across = ((size + GAP) // (tile + GAP) for size in whole.shape[:2])
    assert whole.shape == (down * (tile + GAP) - GAP, across * (tile + GAP) - GAP, 4)
    found = np.empty((down, across, side, side, 4), int)
    rest = whole.copy()
    for row in range(down):
        for column in range(across):
            top, left = row * (tile + GAP), column * (tile + GAP)
            edges = whole[top : top + tile, left : left + tile].copy()
            for y in range(side):
                for x in range(side):
                    block = edges[1 + y * pixels :][:pixels, 1 + x * pixels :][:, :pixels]
                    assert (block == block[0, 0]).all()  # nothing is smoothed
                    found[row, column, y, x] = block[0, 0]
            edges[1:-1, 1:-1] = (EDGE, EDGE, EDGE, 255)
            assert (edges == (EDGE, EDGE, EDGE, 255)).all()
            rest[top : top + tile, left : left + tile] = 0
    assert not rest.any()
    return found


def test_a_grey_filter_is_one_tile_from_blue_to_red() -> None:
    weights = np.array([[[[0.5, -0.5, 0], [-2, 2, 1], [0, 0, 0]]]])
    found = tiles(picture(weights), 3, SIDE // 3)
    assert found.shape == (1, 1, 3, 3, 4)
    assert (found[..., 3] == 255).all()
    quarter = [round(255 + 0.25 * (end - 255)) for end in RED], [round(255 + 0.25 * (end - 255)) for end in BLUE]
    assert found[0, 0, 0, :, :3].tolist() == [*quarter, WHITE]
    assert found[0, 0, 1, :2, :3].tolist() == [BLUE, RED]
    assert found[0, 0, 1, 2, :3] == pytest.approx([216.5, 139.5, 149], abs=0.51)


def test_filters_of_three_channels_have_a_row_of_colours() -> None:
    weights = np.array(in_colour()["after"][1]["weights"])
    found = tiles(picture(weights), 3, SIDE // 3)[..., :3]
    assert found.shape == (2, 3, 3, 3, 3)
    assert (found[0] == found[0, 0]).all()  # the same in the channel of each
    assert found[0, 0, 1, 1].tolist() == RED
    for channel in range(3):
        middle = [127.5] * 3
        middle[channel], middle[(channel + 1) % 3] = 255, 127.5 * (1 - 0.5)
        assert found[1, channel, 1, 1] == pytest.approx(middle, abs=0.51)
        beside = [127.5] * 3
        beside[channel] = 127.5 * (1 - 0.375)
        assert found[1, channel, 0, 1] == pytest.approx(beside, abs=0.51)


def test_large_filters_have_small_pixels() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 1, 7, 7))
    assert tiles(picture(weights), 7, SIDE // 7).shape == (1, 1, 7, 7, 4)


def shown(page: str) -> list[tuple[str, bytes, str]]:
    """Alternative text, picture and caption of each figure of filters."""
    part = page.partition("<h3>Deconvolution filters of the first layer</h3>")[2].partition('<p class="note">')[0]
    pattern = r'<img src="data:image/png;base64,([^"]+)" loading="lazy" alt="([^"]+)"><figcaption>(.*?)</figcaption>'
    return [
        (html.unescape(alt), base64.b64decode(data), html.unescape(re.sub("<[^>]+>", "", caption)).strip())
        for data, alt, caption in re.findall(pattern, part)
    ]


def test_the_page_shows_both_numbers_of_iterations_with_the_sparsity(page: str) -> None:
    assert page.count("<h3>Deconvolution filters of the first layer</h3>") == 1
    few, many = shown(page)
    weights = [np.array(after["weights"]) for after in filters()["after"]]
    assert [few[1], many[1]] == [picture(each) for each in weights]
    of_few = "neighbours \N{MINUS SIGN}0.12 of the centre, sum +0.50, excess kurtosis \N{MINUS SIGN}0.5 before and +0.8 after, "
    of_few += "near zero 7.0\N{NO-BREAK SPACE}% before and 14.0\N{NO-BREAK SPACE}% after"
    of_many = "neighbours \N{MINUS SIGN}0.38 of the centre, sum +0.00, excess kurtosis \N{MINUS SIGN}0.5 before and +10.5 after, "
    of_many += "near zero 7.0\N{NO-BREAK SPACE}% before and 24.0\N{NO-BREAK SPACE}% after"
    assert few[2] == f"{FILTERED}, 5 steps, as in the network: {of_few}"
    assert many[2] == f"{FILTERED}, 15 steps: {of_many}"
    assert (
        few[0] == f"Deconvolution filters of the first layer of {FILTERED} after 5 steps, as in the network: {of_few}"
    )
    assert "below, the weights in all three channels" not in page


def test_each_variant_has_its_line_and_colours_are_explained(suite: None) -> None:
    other = "batch_norm"
    assert list(VARIANTS).index(other) < list(VARIANTS).index(FILTERED)
    edit_metrics(place(other, 0), lambda metrics: metrics.update(filters=in_colour()))
    aggregate()
    page = render(Path("build/tables"))
    assert [caption.partition(":")[0] for _, _, caption in shown(page)] == [
        f"{name}, {steps}" for name in (FILTERED, other) for steps in ("5 steps, as in the network", "15 steps")
    ]
    assert page.count('<div class="samples filters">') == 2
    assert "other channels \N{MINUS SIGN}0.25" in page
    assert "below, the weights in all three channels" in page
