"""How variants are drawn, and plots of many of them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import style

from normbench.results.drawing import STYLE, WIDTH, Look
from normbench.results.loss_plot import loss_plot
from normbench.results.report import render
from normbench.results.scatter import speed_plot
from normbench.results.smoothness_plots import merged
from normbench.results.tables import aggregate
from tests.results.made_up_suite import SEEDS, VARIANTS, classification_record, edit, place, write_suite
from tests.results.page import Page
from tests.support.records import change


def test_a_variant_is_drawn_alike_and_unlike_others() -> None:
    looks = [Look(i) for i in range(32)]
    assert len({(look.colour, look.marker) for look in looks}) == 32
    assert len({(look.colour, look.line) for look in looks}) == 32


def test_layers_of_several_networks_are_one_order() -> None:
    """A layer that only one network has stands behind its predecessor there."""
    lists = [["conv", "a", "head"], ["conv", "norm", "a", "b", "head"], ["conv"], ["stem", "conv", "last"]]
    order = merged(pd.Series(names) for names in lists)
    assert sorted(order) == ["a", "b", "conv", "head", "last", "norm", "stem"]
    for names in lists:
        assert [name for name in order if name in names] == names


def test_many_variants_and_layers_of_a_dead_network(suite: None) -> None:
    """Plots over the whole page; every so many layers named; values of zero, which no logarithm has."""
    names = [*VARIANTS, *(f"more_{i}" for i in range(8))]
    write_suite(variants=names)
    for name in names[len(VARIANTS) :]:
        for seed in SEEDS:
            found = classification_record("fantastic_four", seed)
            layers = [{"name": f"layer{i}", "bound": 10.0 ** (i % 9), "estimate": 1.0} for i in range(100)]
            found.metrics["smoothness"]["layers"] = layers
            for blocks in found.metrics["features"].values():
                blocks[1] = dict.fromkeys(blocks[1], 0.0)
            change(found, provenance={"variant": {"name": name}}).write(place(name, seed))
    aggregate()
    page = render(Path("build/tables"))
    Page(page)
    assert 20 < len(re.findall(r">layer\d+</text>", page)) < 50
    assert page.count('<figure class="wide">') == 2 + 3


def test_a_variant_without_a_speed_is_left_out_of_that_plot_alone(suite: None) -> None:
    for seed in SEEDS:
        edit(place("conv_norm", seed), cost={"images_per_second": None})
    aggregate()
    page = render(Path("build/tables"))
    plots = {name: re.search(rf'aria-label="{name}.*?</svg>', page, re.DOTALL) for name in ("Clean", "Corruption")}
    shown = {name: ">conv_norm</text>" in plot[0] for name, plot in plots.items() if plot}
    assert shown == {"Clean": False, "Corruption": True}


def test_every_point_has_its_name_and_marker() -> None:
    """Two variants at one place have names that do not overlap."""
    rows = [
        {"variant": name, "images_per_second": speed, "clean_accuracy": 0.9, "clean_accuracy_std": 0.01}
        for name, speed in (("slow", 50.0), ("one", 500.0), ("other", 502.0), ("fast", 5000.0))
    ]
    with style.context(STYLE, after_reset=True):
        figure = speed_plot(rows, {row["variant"]: Look(i) for i, row in enumerate(rows)})
        (axes,) = figure.axes
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.texts] == ["slow", "one", "other", "fast"]
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not boxes[1].overlaps(boxes[2])


def test_a_run_that_diverged_is_a_line_with_a_cross() -> None:
    """The mean of the finished runs is a line of its own."""
    losses = {0: [4.0, 2.0, 1.0], 1: [2.0, 1.0, 0.5], 2: [8.0]}
    history = pd.DataFrame(
        {"variant": "a", "seed": seed, "epoch": epoch, "loss": loss}
        for seed, run in losses.items()
        for epoch, loss in enumerate(run, 1)
    )
    figure = loss_plot(history, ["a"], 3, {"a": Look(0)}, WIDTH)
    mean, broken, cross = figure.axes[0].lines
    assert list(mean.get_ydata()) == pytest.approx([3.0, 1.5, 0.75])
    assert list(broken.get_ydata()) == [8.0]
    assert cross.get_marker() == "x"
