"""The charts of the report: what they show, that Vega-Lite accepts them, and that they can stand in any page."""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from normbench.results.charts import VEGA_LITE, Chart, charts, gan_charts, looks, overall_charts
from normbench.results.charts.chart import WIDTH, Spec
from normbench.results.charts.comparisons import against
from normbench.results.charts.conditions import CONDITIONS, alike
from normbench.results.charts.labels import FONT_SIZE, places, text_width
from normbench.results.charts.layers import merged
from normbench.results.charts.pareto import front
from normbench.results.charts.profile import profile
from normbench.results.charts.scales import logarithmic, ticks
from normbench.training.task import Task
from tests.results.chart_tables import CORRUPTIONS, GAN_TASK, TASK, chart_tables

VARIANTS = ["batch_norm", "group_norm", "no_norm", "network_deconvolution", "conv_norm"]
ODD = [
    "batch_norm",
    '"quoted" & <b>',
    "<script>alert(1)</script>",
    "it's \\ {x} [y] a.b",
    "null",
    "7",
    "=1+1",
    r"$\bad$",
]
FAILED = (("no_norm", 1), ("conv_norm", 0), ("conv_norm", 1), ("conv_norm", 2))
CASES: dict[str, dict[str, Any]] = {
    "ordinary": {"variants": VARIANTS},
    "two": {"variants": VARIANTS[:2]},
    "thirty": {"variants": [*VARIANTS, *(f"more_{i}" for i in range(25))], "epochs": 80},
    "one seed": {"variants": VARIANTS, "seeds": 1},
    "gaps": {"variants": VARIANTS, "failed": FAILED, "unmeasured": ("group_norm",), "severities": (1, 5)},
    "one epoch": {"variants": VARIANTS[:3], "epochs": 1},
    "odd names": {"variants": ODD},
    "tasks": {"variants": VARIANTS[:3], "tasks": (TASK, "other", "third")},
}


def drawn(case: str) -> list[Chart]:
    """Returns the charts of a made-up suite, of its first task, its GAN task and across tasks."""
    variants = CASES[case]["variants"]
    tables, look = chart_tables(**CASES[case]), looks(variants, variants[0])
    return charts(TASK, tables, look) + gan_charts(GAN_TASK, tables, look) + overall_charts(tables, look, {})


drawn_once = functools.cache(drawn)


def named(each: list[Chart]) -> dict[str, Chart]:
    """Returns charts by their keys; of two with one key the first."""
    return {chart.key: chart for chart in reversed(each)}


def rows(part: Any) -> Iterator[Spec]:
    """Yields every row of data in a specification."""
    if isinstance(part, dict):
        yield from part.get("data", {}).get("values", ())
        for value in part.values():
            yield from rows(value)
    elif isinstance(part, list):
        for value in part:
            yield from rows(value)


@pytest.fixture(scope="module")
def ordinary() -> dict[str, Chart]:
    return named(drawn_once("ordinary"))


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours as WCAG 2 defines it."""
    dark, bright = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(light: np.ndarray) -> np.ndarray:
    """Returns linear RGB as Oklab (Ottosson, 2020), whose distances are about those that people see."""
    cones = np.cbrt(
        np.clip(light, 0, 1)
        @ np.array(
            [
                [0.41222147, 0.53633254, 0.05144599],
                [0.2119035, 0.68069955, 0.10739696],
                [0.08830246, 0.28171884, 0.6299787],
            ]
        ).T
    )
    return (
        cones
        @ np.array(
            [
                [0.21045426, 0.79361779, -0.00407205],
                [1.9779985, -2.42859221, 0.45059371],
                [0.02590404, 0.78277177, -0.80867577],
            ]
        ).T
    )


# What people with protanopia and deuteranopia see of linear RGB (Machado, Oliveira and Fernandes, 2009).
SIGHT = {
    "normal": (np.eye(3), 0.12),
    "protanopia": (
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        0.06,
    ),
    "deuteranopia": (
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
        0.06,
    ),
}


def test_a_variant_is_drawn_unlike_others_and_the_baseline_has_its_own_colour() -> None:
    names = [f"variant {i}" for i in range(40)]
    each = looks(names, names[11])
    assert list(each) == names
    assert len({(look.colour, look.shape) for look in each.values()}) == 40
    assert len({(look.colour, look.dash) for look in each.values()}) == 40
    baseline = each.pop(names[11])
    assert baseline.baseline
    assert baseline.colour not in {look.colour for look in each.values()}
    assert len({look.colour for look in each.values()}) == 12
    assert not any(look.baseline for look in looks(names, None).values())


@pytest.mark.parametrize("page", ["#ffffff", "#15181b"])
def test_colours_have_contrast_in_light_and_dark_pages(page: str) -> None:
    colours = {look.colour for look in looks(map(str, range(12)), None).values()}
    assert min(contrast(colour, page) for colour in colours) >= 3


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_far_apart_for_everybody(sight: str) -> None:
    matrix, least = SIGHT[sight]
    seen = [oklab(linear(look.colour) @ matrix.T) for look in looks(map(str, range(12)), None).values()]
    assert min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)) > least


@pytest.mark.parametrize("name", CASES)
def test_charts_are_valid_and_have_every_variant(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    case, found = CASES[name], drawn_once(name)
    shown = named(found)
    for chart in found:
        json.dumps(chart.spec, allow_nan=False)
        vl_convert.vegalite_to_vega(chart.spec, vl_version=VEGA_LITE, show_warnings=True)
        assert chart.title
        assert chart.alt.endswith(".")
        assert chart.note.endswith(".")
    assert capfd.readouterr().err == ""
    finished = {name for name in case["variants"] if name != "conv_norm" or "failed" not in case}
    smooth = finished - set(case.get("unmeasured", ()))
    expected = dict.fromkeys(("cost", "robustness", "corruptions", "calibration"), finished)
    expected |= dict.fromkeys(("layers", "features", "energy", "attacks"), smooth) | {"curves": set(case["variants"])}
    for key, names in expected.items():
        assert {row["variant"] for row in rows(shown[key].spec) if "variant" in row} == names, key
    assert {row["variant"] for row in rows(shown["comparisons"].spec) if row} == set(case["variants"][1:])


def test_warnings_of_vega_lite_would_be_seen(capfd: pytest.CaptureFixture[str]) -> None:
    """The oracle of the test above: a specification with a mistake makes a warning."""
    spec = {
        "data": {"values": [{}]},
        "mark": "point",
        "encoding": {"x": {"field": "a", "type": "quantitative", "scale": {"type": "log", "zero": True}}},
    }
    vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE, show_warnings=True)
    assert "WARN" in capfd.readouterr().err


def test_pictures_hold_names_as_text_and_fit_into_one_page() -> None:
    found = drawn_once("odd names")
    ids: list[str] = []
    for chart in found:
        root = ElementTree.fromstring(chart.svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == chart.alt
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {
            "svg",
            "g",
            "path",
            "line",
            "rect",
            "text",
            "defs",
            "clipPath",
            "linearGradient",
            "stop",
            "tspan",
        }
        own = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
        used = {
            value.removeprefix("url(#").removesuffix(")")
            for element in root.iter()
            for value in element.attrib.values()
            if value.startswith("url(#")
        }
        assert used <= own
        ids += own
        assert not any("role" in element.attrib for element in root.iter() if element is not root)
    assert len(ids) == len(set(ids))
    legend = {element.text for element in ElementTree.fromstring(named(found)["curves"].svg).iter() if element.text}
    assert set(ODD) <= legend


@pytest.mark.parametrize("case", ["ordinary", "odd names"])
def test_pictures_are_smaller_than_those_of_vega_and_look_the_same(case: str) -> None:
    def pixels(picture: str) -> np.ndarray:
        sized = picture.replace("currentColor", "#000")
        if " width=" not in sized[: sized.index(">")]:
            width, height = re.findall(r'viewBox="0 0 (\S+) (\S+)"', sized)[0]
            sized = sized.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
        with Image.open(io.BytesIO(vl_convert.svg_to_png(sized, scale=2))) as image:
            return np.asarray(image.convert("RGBA"), float)

    for chart in drawn_once(case)[:6]:
        spec = chart.spec if "concat" in chart.spec else chart.spec | {"width": WIDTH}
        drawn = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
        assert len(chart.svg) < 0.5 * len(drawn)
        apart = np.abs(pixels(drawn) - pixels(str(chart.svg))).max(-1)
        assert (apart > 64).mean() < 1e-4


def test_the_same_tables_give_the_same_bytes() -> None:
    first, again = (
        [(json.dumps(chart.spec), chart.svg, chart.alt) for chart in of("two")] for of in (drawn_once, drawn)
    )
    assert first == again


def test_tables_without_rows_or_columns_have_no_charts() -> None:
    look = looks(VARIANTS, VARIANTS[0])
    tables = chart_tables(VARIANTS)
    assert charts("none", tables, look) == []
    assert charts(TASK, {}, look) == gan_charts(TASK, {}, look) == overall_charts({}, look, {}) == []
    tables["leaderboard"] = tables["leaderboard"].drop(columns=["clean_accuracy_std", "corruption_accuracy_std", "mce"])
    found = named(charts(TASK, {name: tables[name] for name in ("leaderboard", "curves")}, look))
    assert set(found) == {"cost", "robustness", "curves"}


def test_a_task_and_a_gan_task_of_one_name_have_their_own_runs() -> None:
    tables = chart_tables(VARIANTS)
    for name in ("gan", "runs", "speeds", "comparisons"):
        tables[name]["task"] = TASK
    look = looks(VARIANTS, VARIANTS[0])
    (panel,) = named(gan_charts(TASK, tables, look))["comparisons"].spec["concat"]
    assert panel["title"] == "FID"
    panels = named(charts(TASK, tables, look))["comparisons"].spec["concat"]
    assert "FID" not in {panel["title"] for panel in panels}


@given(some.lists(some.tuples(*[some.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])] * 2), max_size=8))
def test_the_front_has_the_points_that_no_other_beats(points: list[tuple[float, float]]) -> None:
    def beaten(one: tuple[float, float]) -> bool:
        return any(x <= one[0] and y <= one[1] and (x < one[0] or y < one[1]) for x, y in points if x == x and y == y)

    expected = [not any(map(math.isnan, point)) and not beaten(point) for point in points]
    assert front(np.array(points, float).reshape(-1, 2)).tolist() == expected


def test_the_front_of_the_cost_chart_looks_for_fast_and_accurate_variants(ordinary: dict[str, Chart]) -> None:
    """Of speed and accuracy more is better, of mCE and memory less."""
    tables = chart_tables(VARIANTS)
    speeds = tables["speeds"][tables["speeds"]["kind"] == "classification"]
    board = tables["leaderboard"].merge(speeds[["variant", "images_per_second"]], on="variant").to_dict("records")

    def on_front(cost: str, measure: str, signs: tuple[int, int]) -> set[str]:
        points = {row["variant"]: (signs[0] * row[cost], signs[1] * row[measure]) for row in board}
        return {name for name, (x, y) in points.items() if not any(a < x and b < y for a, b in points.values())}

    found = list(rows(ordinary["cost"].spec))
    for cost, measure, signs in (("images_per_second", "clean_accuracy", (-1, -1)), ("peak_memory_mib", "mce", (1, 1))):
        drawn_front = {
            row["variant"] for row in found if row["cost"] == cost and row["measure"] == measure and row["front"]
        }
        assert drawn_front == on_front(cost, measure, signs)


def test_speeds_that_cannot_be_compared_are_not_drawn() -> None:
    tables = chart_tables(VARIANTS)
    tables["speeds"].loc[tables["speeds"]["variant"] == "no_norm", "ratio"] = math.nan
    found = list(rows(named(charts(TASK, tables, looks(VARIANTS, VARIANTS[0])))["cost"].spec))
    by_cost = {
        cost: {row["variant"] for row in found if row["cost"] == cost}
        for cost in ("images_per_second", "seconds", "parameters")
    }
    assert by_cost["images_per_second"] == by_cost["seconds"] == set(VARIANTS) - {"no_norm"}
    assert by_cost["parameters"] == set(VARIANTS)


points = some.lists(some.tuples(some.floats(10, 560), some.floats(10, 310)), min_size=1, max_size=30)


@given(points)
def test_names_cover_no_point_and_no_other_name(each: list[tuple[float, float]]) -> None:
    names = [f"variant_{i}" for i in range(len(each))]
    boxes = []
    for name, (x, y), place in zip(names, each, places(each, names, [], (570, 320)), strict=True):
        if place is None:
            continue
        width = text_width(name, FONT_SIZE)
        left = x + place.dx - {"left": 0.0, "center": width / 2, "right": width}[place.align]
        boxes.append((left, y + place.dy - FONT_SIZE / 2, left + width, y + place.dy + FONT_SIZE / 2))
        assert boxes[-1][0] >= 0
        assert boxes[-1][2] <= 570
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for left, top, right, bottom in boxes:
        assert not any(left < x < right and top < y < bottom for x, y in each)


def test_a_lone_point_has_its_name_beside_it() -> None:
    (place,) = places([(100, 100)], ["name"], [], (570, 320))
    assert place is not None
    assert place.near
    assert (place.align, place.dy) == ("left", 0)


def test_where_names_have_no_room_a_legend_has_them_all() -> None:
    names = CASES["thirty"]["variants"]
    found = named(drawn_once("thirty"))["robustness"]
    assert not all(row.get("named") for row in rows(found.spec))
    texts = {element.text for element in ElementTree.fromstring(found.svg).iter()}
    assert set(names) <= texts


def test_comparisons_are_seen_from_the_other_variant() -> None:
    table = pd.DataFrame(
        [
            ("accuracy", "a", "base", 0.02, 0.01, 0.03, "better"),
            ("accuracy", "base", "b", 0.02, 0.01, 0.03, "better"),
            ("accuracy", "a", "b", 0.5, 0.4, 0.6, "better"),
            ("fid", "base", "b", 3.0, 1.0, 5.0, "worse"),
            ("accuracy", "base", "c", 0.01, math.nan, math.nan, math.nan),
            ("accuracy", "base", "d", math.nan, math.nan, math.nan, math.nan),
        ],
        columns=["measure", "variant", "other", "difference", "low", "high", "verdict"],
    ).assign(smallest_effect=0.04)
    assert against(table, "base") == [
        {
            "variant": "a",
            "measure": "accuracy",
            "difference": 2,
            "verdict": "better",
            "low": 1,
            "high": 3,
            "smallest": 4,
        },
        {
            "variant": "b",
            "measure": "accuracy",
            "difference": -2,
            "verdict": "worse",
            "low": -3,
            "high": -1,
            "smallest": 4,
        },
        {
            "variant": "b",
            "measure": "fid",
            "difference": -3,
            "verdict": "better",
            "low": -5,
            "high": -1,
            "smallest": 0.04,
        },
        {"variant": "c", "measure": "accuracy", "difference": -1, "verdict": "no verdict", "smallest": 4},
    ]


def test_curves_are_the_mean_and_the_range_of_the_finished_runs() -> None:
    """A run that failed is a line of its own, with a cross at its end."""
    losses = {0: [4.0, 2.0, 1.0], 1: [2.0, 1.0, 0.5], 2: [8.0]}
    curves = [
        {"task": TASK, "variant": "a", "seed": seed, "epoch": epoch, "loss": loss, "accuracy": 0.5}
        for seed, run in losses.items()
        for epoch, loss in enumerate(run, 1)
    ]
    runs = [
        {
            "kind": "classification",
            "task": TASK,
            "variant": "a",
            "seed": seed,
            "status": "diverged" if seed == 2 else "finished",
        }
        for seed in losses
    ]
    tables = {
        "leaderboard": pd.DataFrame([{"task": TASK, "variant": "a"}]),
        "curves": pd.DataFrame(curves),
        "runs": pd.DataFrame(runs),
    }
    (chart,) = charts(TASK, tables, looks(["a"], None))
    found = list(rows(chart.spec["concat"][0]))
    assert [(row["value"], row["low"], row["high"]) for row in found if "low" in row] == [
        (3, 2, 4),
        (1.5, 1, 2),
        (0.75, 0.5, 1),
    ]
    assert [row for row in found if "seed" in row] == [{"variant": "a", "seed": 2, "epoch": 1, "value": 8, "end": 1}]


def test_long_trainings_are_drawn_by_some_epochs_with_the_first_and_the_last() -> None:
    found = named(drawn_once("thirty"))["curves"]
    epochs = [row["epoch"] for row in rows(found.spec["concat"][0]) if row["variant"] == "batch_norm"]
    assert (epochs[0], epochs[-1], len(epochs)) == (1, 80, 60)


def test_the_heat_map_has_every_severity_and_the_mean(ordinary: dict[str, Chart]) -> None:
    spec = ordinary["corruptions"].spec
    slider = next(param for param in spec["params"] if param["name"] == "severity")
    assert (slider["value"], slider["bind"]["min"], slider["bind"]["max"]) == (0, 0, 5)
    grid = chart_tables(VARIANTS)["corruptions"].set_index(["variant", "corruption"])
    found = {(row["variant"], row["corruption"]): row for row in rows(spec)}
    assert len(found) == len(VARIANTS) * (len(CORRUPTIONS) + 2)
    for (variant, corruption), own in grid.iterrows():
        expected = [own["mean"], *(own[f"severity_{severity}"] for severity in range(1, 6))]
        row = found[variant, corruption.replace("_", " ")]
        assert row["values"] == pytest.approx([100 * value for value in expected], abs=0.051)
        assert row["reference"] == found["batch_norm", row["corruption"]]["values"]


@pytest.mark.parametrize(("severity", "shown"), [(0, "accuracy"), (5, "accuracy"), (5, "difference to the baseline")])
def test_the_slider_and_the_choice_change_the_cells(ordinary: dict[str, Chart], severity: int, shown: str) -> None:
    """As Vega draws them: the text of the cells, row by row."""
    spec = ordinary["corruptions"].spec | {"width": 4 * WIDTH}
    values = {"severity": severity, "shown": shown}
    spec["params"] = [
        param | ({"value": values[param["name"]]} if param["name"] in values else {}) for param in spec["params"]
    ]
    texts = [
        element.text
        for element in ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)).iter()
    ]
    minus = shown != "accuracy"
    expected = [row["values"][severity] - (row["reference"][severity] if minus else 0) for row in rows(spec)]
    cells = [f"{value:.0f}".replace("-", "\N{MINUS SIGN}").replace("\N{MINUS SIGN}0", "0") for value in expected]
    wanted, found = set(cells), [text for text in texts if text]
    assert sum(text in wanted for text in found) >= len(cells)
    assert next(text for text in found if "mean over" in text or "severity " in text) == (
        f"{f'severity {severity}' if severity else 'mean over severities'}, {'difference in points' if minus else 'accuracy in %'}"
    )


def test_layers_of_several_networks_are_one_order() -> None:
    """A layer that only one network has stands behind its predecessor there."""
    lists = [["conv", "a", "head"], ["conv", "norm", "a", "b", "head"], ["conv"], ["stem", "conv", "last"]]
    order = merged(pd.Series(names) for names in lists)
    assert sorted(order) == ["a", "b", "conv", "head", "last", "norm", "stem"]
    for names in lists:
        assert [name for name in order if name in names] == names


def test_layers_of_a_dead_network_are_drawn() -> None:
    """Zeros have no logarithm, so their axes are linear; of very many layers some have no name."""
    tables = chart_tables(VARIANTS)
    layers = [
        {"task": TASK, "variant": name, "layer": f"layer{i}", "bound": 10.0 ** (i % 9), "estimate": 0.0}
        for name in VARIANTS
        for i in range(100)
    ]
    tables["layers"] = pd.DataFrame(layers)
    tables["features"].loc[tables["features"]["block"] == 2, ["rms", "max"]] = 0.0
    found = named(charts(TASK, tables, looks(VARIANTS, VARIANTS[0])))
    texts = [element.text or "" for element in ElementTree.fromstring(found["layers"].svg).iter()]
    assert 20 < sum(text.startswith("layer") for text in texts) < 100
    for key in ("layers", "features"):
        assert "log" not in {panel["encoding"]["y"]["scale"].get("type") for panel in found[key].spec["concat"]}
        assert 0 in {row["value"] for row in rows(found[key].spec)}


def test_a_profile_is_the_share_of_runs_above_a_threshold() -> None:
    scores = np.array([0.2, 0.5, math.nan, 0.9])
    assert profile(scores, np.array([0.0, 0.2, 0.5, 0.95])).tolist() == [0.75, 0.5, 0.25, 0.0]


def task(name: str, **changed: Any) -> Task:
    recipe = {"epochs": 5, "batch_size": 64, "lr": 0.1, **changed.pop("recipe", {})}
    return Task(
        name=name, dataset="digits", model="resnet8", recipe=recipe, seed=0, seeds=[0], model_code="0", **changed
    )


def noise(fraction: float, kind: str = "symmetric") -> dict[str, Any]:
    return {"label_noise": {"fraction": fraction, "kind": kind}}


def test_tasks_that_differ_in_one_condition_share_a_chart() -> None:
    tasks = {
        "clean": task("clean"),
        "noisy": task("noisy", **noise(0.4)),
        "noisier": task("noisier", **noise(0.6)),
        "cyclic": task("cyclic", **noise(0.2, "cyclic")),
        "half": task("half", train_fraction=0.5),
        "half-noisy": task("half-noisy", train_fraction=0.5, **noise(0.4)),
        "longer": task("longer", recipe={"epochs": 6}, **noise(0.2)),
    }
    groups = {key: alike(tasks, field, value) for key, (_, _, field, value) in CONDITIONS.items()}
    assert groups["label-noise"] == [["clean", "cyclic"], ["clean", "noisy", "noisier"], ["half", "half-noisy"]]
    assert groups["train-fraction"] == [["half", "clean"], ["half-noisy", "noisy"]]
    tables = chart_tables(VARIANTS, tasks=("clean", "noisy", "noisier"))
    own = {name: tasks[name] for name in ("clean", "noisy", "noisier")}
    (chart,) = [each for each in overall_charts(tables, looks(VARIANTS, VARIANTS[0]), own) if each.key == "label-noise"]
    found = list(rows(chart.spec))
    assert {row["at"] for row in found} == {0, 40, 60}
    assert {"0", "40", "60"} <= {element.text for element in ElementTree.fromstring(chart.svg).iter()}
    assert {row["variant"] for row in found} == set(VARIANTS)


@given(some.floats(1e-6, 1e6), some.floats(1.01, 1e4), some.booleans())
def test_ticks_lie_on_the_axis(low: float, ratio: float, log: bool) -> None:
    found = ticks(low, low * ratio, log)
    assert found == sorted(set(found))
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in found)
    assert len(found) <= 12
    if ratio > 10:
        assert len(found) >= 2


def test_axes_are_logarithmic_where_numbers_span_much() -> None:
    assert logarithmic([1, 5])
    assert not logarithmic([1, 4.9])
    assert not logarithmic([0, 5])
    assert not logarithmic([])
    assert logarithmic([1, math.nan, 10])
