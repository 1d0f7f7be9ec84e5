"""The wide tables of a task, which the page shows on demand: comparisons, accuracy by corruption and class, layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd
from markupsafe import Markup

from normbench.results.charts.curves import QUANTITIES
from normbench.results.charts.features import BANDS, empty_blocks
from normbench.results.charts.gan_losses import LOSSES
from normbench.results.charts.kid import FACTOR, KIDS
from normbench.results.charts.layers import merged
from normbench.results.charts.over_time import chosen_epochs, chosen_times
from normbench.results.page.grid import Cell, Column, Grid, Line
from normbench.results.page.names import Variants, measure
from normbench.results.page.verdicts import Comparison, Verdicts
from normbench.results.words import NONE, interval, measured, number, signed

WHEN = {"initial": "at initialization", "trained": "after training"}
# Column of features.csv -> the label of its table, and the factor of its numbers.
FEATURES = {"rms": ("Feature maps: root mean square", 1.0), "max": ("Feature maps: largest value", 1.0)}
FEATURES |= {band: (f"Spectral energy, %: {title}", 100.0) for band, title in BANDS.items()}

# Column of gan_curves.csv -> the label of its table, and the factor of its numbers.
ITERATIONS: dict[str, tuple[str, float]] = {column: (title, FACTOR) for column, title in KIDS.items()}
ITERATIONS |= {"diversity": ("diversity of samples", 1)}
ITERATIONS |= {column: (title, 1) for column, title in LOSSES.items()}
ITERATIONS |= {"largest_norm": ("largest spectral norm of the discriminator", 1)}


def comparison_grid(variants: Variants, names: list[str], verdicts: Verdicts) -> Grid:
    """Returns the differences of each variant to the baseline with their intervals, a column for each measure."""

    def cell(name: str, key: str) -> Cell:
        found = verdicts.of(key, name, variants.baseline or "")
        return Cell("\N{EN DASH}") if found is None else difference(found, measure(key).factor)

    columns = [
        Column(key, words.head, f"{words.small.removesuffix(', %').removesuffix('%')} {words.unit}".strip(), words.best)
        for key in verdicts.measures
        for words in [measure(key)]
    ]
    lines = [
        variants.line(name, [cell(name, key) for key in verdicts.measures])
        for name in names
        if name != variants.baseline
    ]
    return Grid("Differences to the baseline", "Variant", columns, lines)


def difference(found: Comparison, factor: float) -> Cell:
    """Returns a difference with its interval and verdict as a cell."""
    bounds = interval(factor * found.low, factor * found.high, ".2f")
    behind = Markup(' <span class="sd">{}</span>').format(bounds) if bounds else Markup("")
    value = factor * found.difference
    return Cell(Markup("{}{}").format(signed(value, ".2f"), behind), value, found.verdict)


def corruption_grid(variants: Variants, table: pd.DataFrame, label: str = "Accuracy by corruption, %") -> Grid:
    """Returns the accuracy of each variant on each corruption, mean over severities.

    table: corruptions.csv, or the rows of one measure of segmentation_corruptions.csv.
    """
    columns = [Column(name, name.replace("_", " "), best="high") for name in dict.fromkeys(table["corruption"])]
    means = {(row["variant"], row["corruption"]): 100 * row["mean"] for row in table.to_dict("records")}
    return shares(label, variants, columns, table["variant"], means)


def iou_grid(variants: Variants, table: pd.DataFrame) -> Grid:
    """Returns the IoU of each class of each variant on clean test images. table: segmentation_classes.csv."""
    pixels = dict(zip(table["class"], table["pixels"], strict=True))
    total = sum(pixels.values()) or 1
    columns = [
        Column(name, name, f"{number(100 * count / total, '.1f')} % of pixels", "high")
        for name, count in pixels.items()
    ]
    means = {(row["variant"], row["class"]): 100 * row["iou"] for row in table.to_dict("records")}
    return shares("IoU by class, %", variants, columns, table["variant"], means)


def class_grid(variants: Variants, table: pd.DataFrame) -> Grid:
    """Returns the accuracy of each variant on the clean test images of each class. table: classes.csv."""
    examples = dict(zip(table["class"].astype(str), table["examples"], strict=True))
    columns = [Column(name, name, f"{number(count, '.0f')} images", "high") for name, count in examples.items()]
    means = {(row["variant"], str(row["class"])): 100 * row["accuracy"] for row in table.to_dict("records")}
    return shares("Accuracy by class, %", variants, columns, table["variant"], means)


def shares(
    label: str, variants: Variants, columns: list[Column], names: Iterable[str], means: dict[tuple[str, str], float]
) -> Grid:
    """Returns a table of percentages. means: by variant and key of the column."""
    lines = [
        variants.line(
            name, [Cell(number(value, ".1f"), value) for column in columns for value in [means[name, column.key]]]
        )
        for name in dict.fromkeys(names)
    ]
    return Grid(label, "Variant", columns, lines)


def agreement_grid(variants: Variants, table: pd.DataFrame) -> Grid:
    """Returns how each variant's errors agree with those of the baseline. table: agreement.csv."""
    columns = [
        Column("both_right", "Both right", "%", "high"),
        Column("only_variant", "Only the variant right", "%", "high"),
        Column("only_baseline", "Only the baseline right", "%", "low"),
        Column("both_wrong", "Both wrong", "%", "low"),
    ]
    lines = []
    for row in table.to_dict("records"):
        if variants.baseline in (row["variant"], row["other"]):
            own = ["only_first", "only_second"] if row["other"] == variants.baseline else ["only_second", "only_first"]
            values = [100 * row[key] for key in ("both_right", *own, "both_wrong")]
            name = row["variant"] if row["other"] == variants.baseline else row["other"]
            lines.append(variants.line(name, [Cell(number(value, ".1f"), value) for value in values]))
    return Grid("Agreement of errors with the baseline", "Variant", columns, lines)


def layer_grids(table: pd.DataFrame) -> list[Grid]:
    """Returns the bounds and the estimates of the norms of all layers: a line for each layer, a column a variant."""
    names = list(dict.fromkeys(table["variant"]))
    layers = merged(own["layer"] for _, own in table.groupby("variant", sort=False))
    found = {(row["layer"], row["variant"]): row for row in table.to_dict("records")}
    columns = [Column(name, name, best="low") for name in names]

    def cell(layer: str, name: str, key: str) -> Cell:
        row = found.get((layer, name), {})
        value = row.get(key, math.nan)
        return Cell(measured(value, row.get(f"{key}_std", math.nan), ".3g"), value)

    return [
        Grid(label, "Layer", columns, [Line(layer, [cell(layer, name, key) for name in names]) for layer in layers])
        for key, label in (("bound", "Norms of layers: upper bounds"), ("estimate", "Norms of layers: lower estimates"))
        if table[key].notna().any()
    ]


def feature_grids(variants: Variants, table: pd.DataFrame) -> list[Grid]:
    """Returns what is known of each block's output, before and after training: its size and its spectral energy."""
    found = {(row["variant"], row["when"], row["block"]): row for row in table.to_dict("records")}
    known = [key for key in FEATURES if len(table) and table[key].notna().any()]
    absent = {(key, block) for key in BANDS for block in empty_blocks(table, key)}
    blocks = [(when, block) for when in WHEN for block in sorted(table.loc[table["when"] == when, "block"].unique())]
    columns = [Column(f"{when}-{block}", f"Block {block}", WHEN[when]) for when, block in blocks]

    def cell(name: str, when: str, block: int, key: str, factor: float) -> Cell:
        row = {} if (key, block) in absent else found.get((name, when, block), {})
        value, deviation = (factor * row.get(column, math.nan) for column in (key, f"{key}_std"))
        return Cell(measured(value, deviation, ".3g"), value)

    names = list(dict.fromkeys(table["variant"]))
    return [
        Grid(
            label,
            "Variant",
            columns,
            [variants.line(name, [cell(name, *place, key, factor) for place in blocks]) for name in names],
        )
        for key in known
        for label, factor in [FEATURES[key]]
    ]


def curve_grids(table: pd.DataFrame, runs: pd.DataFrame) -> list[Grid]:
    """Returns training loss and accuracy, mean over the finished runs: a line for each epoch, a column a variant.

    table, runs: the rows of the task in curves.csv and runs.csv. The epochs are those of the chart.
    """
    return _by_time(table, runs, "epoch", QUANTITIES, chosen_epochs(int(table["epoch"].max())) if len(table) else [])


def gan_curve_grids(table: pd.DataFrame, runs: pd.DataFrame) -> list[Grid]:
    """Returns what a GAN notes while it trains, likewise: a line for each iteration, a column a variant.

    table, runs: the rows of the task in gan_curves.csv and runs.csv.
    """
    return _by_time(table, runs, "iteration", ITERATIONS, chosen_times(table["iteration"]) if len(table) else [])


def norm_grid(table: pd.DataFrame, runs: pd.DataFrame) -> Grid:
    """Returns the spectral norms of the discriminator's layers at the end of the finished runs, a line for each layer.

    table, runs: the rows of the task in gan_norms.csv and runs.csv.
    """
    table = _of_finished(table, runs) if len(table) else table
    last = table[table["iteration"] == table["iteration"].max()] if len(table) else table
    if not len(last):
        return Grid("Spectral norms at the end", "Layer", [], [])
    names = list(dict.fromkeys(last["variant"]))
    layers = merged(own["layer"].drop_duplicates() for _, own in last.groupby("variant", sort=False))
    found = last.groupby(["variant", "layer"])["norm"].agg(["mean", "std"]).to_dict("index")

    def cell(place: tuple[str, str]) -> Cell:
        if place not in found:
            return Cell(NONE)
        return Cell(measured(found[place]["mean"], found[place]["std"], ".3g"), found[place]["mean"])

    columns = [Column(name, name) for name in names]
    lines = [Line(layer, [cell((name, layer)) for name in names]) for layer in layers]
    return Grid("Spectral norms at the end", "Layer", columns, lines)


def _by_time(
    table: pd.DataFrame, runs: pd.DataFrame, time: str, quantities: Mapping[str, tuple[str, float]], times: list[int]
) -> list[Grid]:
    """Returns a table for each quantity that has values, over the finished runs.

    time: the column of the times. quantities: column -> the label, and the factor of its numbers. times: those that are
    shown.
    """
    table = _of_finished(table[table[time].isin(times)], runs) if len(table) else table
    if not len(table):
        return []
    names = list(dict.fromkeys(table["variant"]))
    known = [key for key in quantities if key in table and table[key].notna().any()]
    # As a dictionary, since a frame takes longer to find a cell than to compute it.
    found = table.groupby(["variant", time])[known].agg(["mean", "std"]).to_dict("index")

    def cell(place: tuple[str, int], key: str, factor: float) -> Cell:
        if place not in found:
            return Cell(NONE)
        value, deviation = (factor * float(found[place][key, of]) for of in ("mean", "std"))
        return Cell(measured(value, deviation, ".3g"), value)

    return [
        Grid(
            f"By {time}: {title}",
            time.capitalize(),
            [Column(name, name) for name in names],
            [
                Line(str(when), [cell((name, when), key, factor) for name in names])
                for when in sorted(table[time].unique())
            ],
        )
        for key in known
        for title, factor in [quantities[key]]
    ]


def _of_finished(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a table with a row for each run and more that are of runs which finished."""
    done = runs.loc[runs["status"] == "finished", ["variant", "seed"]]
    return table.merge(done, on=["variant", "seed"])
