"""The sections of the report: one for each task of any kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.results.charts import Chart, Look, charts, gan_charts, segmentation_charts
from normbench.results.page.addresses import data_address
from normbench.results.page.certified import certified_grid
from normbench.results.page.compare import comparable
from normbench.results.page.details import (
    agreement_grid,
    class_grid,
    comparison_grid,
    corruption_grid,
    curve_grids,
    feature_grids,
    gan_curve_grids,
    iou_grid,
    layer_grids,
    norm_grid,
)
from normbench.results.page.filters import FilterPicture, filter_pictures
from normbench.results.page.grid import Grid
from normbench.results.page.leaderboard import FIRST, GROUPED, leaderboard
from normbench.results.page.names import Variants, measure
from normbench.results.page.scores import gan_score_grid, robustness_grid, smoothness_grid
from normbench.results.page.verdicts import Verdicts
from normbench.results.tables.facts import DatasetFacts, Facts, TaskFacts
from normbench.results.tables.masks import IMAGES, TRUTH, legend
from normbench.results.tables.table import Row
from normbench.results.words import effects, resolution
from normbench.runs.run import Kind
from normbench.segmentation.task import SegmentationTask

Tables = dict[str, pd.DataFrame]  # by the name of their file


@dataclass(frozen=True)
class Film:
    """The film strip of a run of a variant. address: of the picture. times: of its columns, in words, or empty."""

    variant: str
    seed: str
    status: str
    times: str
    address: str


@dataclass(frozen=True)
class MaskPictures:
    """Some test images, their masks, and what variants predict, one below the other.

    before: the caption and the data address of the pictures of images and masks. predicted: the address by variant.
    legend: colours and names of the classes.
    """

    before: list[tuple[str, str]]
    predicted: dict[str, str]
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """The values that the template shows for a task of any kind.

    anchor: its id on the page. board: the leaderboard. reading: sentences on what its numbers can show. charts: in
    their order. filters: pictures of the deconvolution filters of first layers, by variant. grids: the wide tables.
    data: for the script. off: the scores that `evaluation` has off. unfinished: variants without a finished run.
    samples: of a GAN, the caption and the data address of each picture, by variant. unseen: its finished runs whose
    samples are missing or damaged. films: of a GAN, the film strips. failed: sentences on its runs that failed. masks:
    of segmentation, the pictures; None without any. tag: what kind of task it is, where that has to be said.
    """

    anchor: str
    name: str
    facts: TaskFacts
    board: Grid
    reading: list[str]
    charts: list[Chart]
    filters: dict[str, list[FilterPicture]]
    scores: list[Grid]
    grids: list[Grid]
    data: dict[str, Any]
    off: list[str]
    unfinished: list[str]
    tuned: bool
    samples: dict[str, list[tuple[str, str]]]
    unseen: list[str]
    films: list[Film]
    failed: list[str]
    masks: MaskPictures | None = None
    tag: str = ""

    @property
    def empty(self) -> bool:
        """Whether no variant has a finished run."""
        return len(self.unfinished) == len(self.board.lines)


@dataclass(frozen=True)
class Suite:
    """What all sections share: the facts, the tables, missing.json, the looks of variants and the links to runs."""

    facts: Facts
    tables: Tables
    missing: dict[str, Any]
    looks: Mapping[str, Look]
    links: Mapping[tuple[str, str, str], str]

    def own(self, kind: Kind, task: str) -> Tables:
        """Returns the rows of a task in every table; a table without tasks as it is."""
        found = {}
        for name, table in self.tables.items():
            mine = table[table["task"] == task] if "task" in table else table
            found[name] = mine[mine["kind"] == kind.value] if "kind" in mine else mine
        return found


def task_section(suite: Suite, name: str, anchor: str, folder: Path) -> Section:
    """Returns the section of a task. folder: build/tables, with the pictures of filters."""
    facts, own = suite.facts.tasks[Kind.CLASSIFICATION][name], suite.own(Kind.CLASSIFICATION, name)
    why = {table: suite.missing[table].get(name, {}) for table in ("leaderboard", "robustness", "smoothness")}
    rows = own["leaderboard"].to_dict("records")
    tuned = frozenset(row["variant"] for row in rows if row["tuned"])
    variants = named(suite, tuned)
    verdicts, means = Verdicts(own["comparisons"]), spreads(own["runs"], rows)
    means = means.join(by_group(own["corruptions"]))
    names = [row["variant"] for row in rows]
    links = {variant: suite.links.get((Kind.CLASSIFICATION.value, name, variant), "runs") for variant in names}
    scores = [robustness_grid(variants, own["robustness"], own["runs"], verdicts, why["robustness"])]
    scores += [smoothness_grid(variants, own["smoothness"], why["smoothness"])]
    scores += [certified_grid(variants, own["certified"], verdicts)]
    grids = [
        comparison_grid(variants, names, verdicts),
        corruption_grid(variants, own["corruptions"]),
        *([class_grid(variants, own["classes"])] if len(own["classes"]) else []),
        *([agreement_grid(variants, own["agreement"])] if len(own["agreement"]) else []),
        *layer_grids(own["layers"]),
        *feature_grids(variants, own["features"]),
        *curve_grids(own["curves"], own["runs"]),
    ]
    dataset = suite.facts.datasets.get(facts.task.dataset)
    order = [variant for variant in suite.facts.suite.variants if variant in names]
    board = leaderboard(rows, means, own["speeds"], verdicts, variants, why["leaderboard"], links)
    return Section(
        anchor=anchor,
        name=name,
        facts=facts,
        board=board,
        reading=[
            *tests(dataset),
            seeds(len(suite.facts.suite.seeds)),
            *shown(board, verdicts, suite.facts.suite.baseline),
        ],
        charts=charts(name, suite.tables, dict(suite.looks)),
        filters=filter_pictures(own["filters"], names, folder / "filters" / name),
        scores=[grid for grid in scores if grid],
        grids=[grid for grid in grids if grid],
        data=comparable(order, means, verdicts, own["corruptions"], own["classes"], own["agreement"]),
        off=suite.missing["off"].get(name, []),
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        tuned=bool(tuned),
        samples={},
        unseen=[],
        films=[],
        failed=[],
    )


def segmentation_section(suite: Suite, name: str, anchor: str, folder: Path) -> Section:
    """Returns the section of a task of segmentation. folder: build/tables, with the pictures of masks."""
    facts, own = suite.facts.tasks[Kind.SEGMENTATION][name], suite.own(Kind.SEGMENTATION, name)
    rows = own["segmentation"].to_dict("records")
    variants, verdicts = named(suite, frozenset()), Verdicts(own["comparisons"])
    names = [row["variant"] for row in rows]
    means = spreads(own["runs"], rows)
    links = {variant: suite.links.get((Kind.SEGMENTATION.value, name, variant), "runs") for variant in names}
    order = [variant for variant in suite.facts.suite.variants if variant in names]
    none = pd.DataFrame()
    board = leaderboard(
        rows, means, own["speeds"], verdicts, variants, suite.missing["segmentation"].get(name, {}), links
    )
    corrupted = own["segmentation_corruptions"]
    by_measure = {
        "Mean IoU by corruption, %": corrupted[corrupted["measure"] == "mean_iou"],
        "Pixel accuracy by corruption, %": corrupted[corrupted["measure"] == "pixel_accuracy"],
    }
    grids = [
        iou_grid(variants, own["segmentation_classes"]),
        comparison_grid(variants, names, verdicts),
        *(corruption_grid(variants, table, label) for label, table in by_measure.items()),
        *curve_grids(own["curves"], own["runs"]),
    ]
    return Section(
        anchor=anchor,
        name=name,
        facts=facts,
        board=board,
        reading=[seeds(len(suite.facts.suite.seeds)), *shown(board, verdicts, suite.facts.suite.baseline)],
        charts=segmentation_charts(name, suite.tables, dict(suite.looks)),
        filters={},
        scores=[],
        grids=[grid for grid in grids if grid],
        data=comparable(order, means, verdicts, none, none, none),
        off=[],
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        tuned=False,
        samples={},
        unseen=[],
        films=[],
        failed=[],
        masks=mask_pictures(folder / "masks" / name, names, facts, suite.facts.datasets.get(facts.task.dataset)),
        tag="segmentation",
    )


def mask_pictures(
    folder: Path, names: list[str], facts: TaskFacts, dataset: DatasetFacts | None
) -> MaskPictures | None:
    """Returns the pictures in a folder of masks; None if no variant has one. names: of the variants, in their order."""
    found = {name: folder / "variants" / f"{name}.png" for name in names}
    predicted = {name: data_address(path) for name, path in found.items() if path.is_file()}
    if not predicted or dataset is None or dataset.masks is None or not isinstance(facts.task, SegmentationTask):
        return None
    before = {"images": folder / f"{IMAGES}.png", "masks": folder / f"{TRUTH}.png"}
    classes = [*(["void"] if facts.task.recipe.protocol == "authors" else []), *dataset.masks.names]
    return MaskPictures(
        [(caption, data_address(path)) for caption, path in before.items() if path.is_file()],
        predicted,
        legend(classes, facts.task.recipe.protocol == "authors"),
    )


def gan_section(suite: Suite, name: str, anchor: str, folder: Path) -> Section:
    """Returns the section of a GAN task. folder: build/tables, with the samples and the pictures of real images."""
    facts, own = suite.facts.tasks[Kind.GAN][name], suite.own(Kind.GAN, name)
    rows = own["gan"].to_dict("records")
    variants, verdicts = named(suite, frozenset()), Verdicts(own["comparisons"])
    names = [row["variant"] for row in rows]
    means = spreads(own["runs"], rows)
    links = {variant: suite.links.get((Kind.GAN.value, name, variant), "runs") for variant in names}
    why = suite.missing["gan"].get(name, {})
    order = [variant for variant in suite.facts.suite.gan_variants if variant in names]
    none = pd.DataFrame()
    board = leaderboard(rows, means, own["speeds"], verdicts, variants, why, links)
    done = own["runs"][own["runs"]["status"] == "finished"].to_dict("records")
    scores = [gan_score_grid(variants, own["gan"], why)]
    grids = [
        comparison_grid(variants, names, verdicts),
        *gan_curve_grids(own["gan_curves"], own["runs"]),
        norm_grid(own["gan_norms"], own["runs"]),
    ]
    return Section(
        anchor=anchor,
        name=name,
        facts=facts,
        board=board,
        reading=[seeds(len(suite.facts.suite.seeds)), *shown(board, verdicts, suite.facts.suite.baseline)],
        charts=gan_charts(name, suite.tables, dict(suite.looks)),
        filters={},
        scores=[grid for grid in scores if grid],
        grids=[grid for grid in grids if grid],
        data=comparable(order, means, verdicts, none, none, none),
        off=[],
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        tuned=False,
        samples=pictures(folder / "samples" / name, names, folder / "real" / f"{facts.task.dataset}.png"),
        unseen=[
            f"{run['variant']}, seed {run['seed']}"
            for run in done
            if not (folder / "samples" / name / run["variant"] / f"{run['seed']}.png").is_file()
        ],
        films=films(folder / "films" / name, names, own["runs"], own["gan_curves"]),
        failed=suite.missing["failed"].get(name, []),
        tag="GAN",
    )


def named(suite: Suite, tuned: frozenset[str]) -> Variants:
    """Returns how the variants of a section are named."""
    glyphs = {name: look.glyph() for name, look in suite.looks.items()}
    return Variants(glyphs, suite.facts.suite.baseline, tuned)


def spreads(runs: pd.DataFrame, rows: list[Row]) -> pd.DataFrame:
    """Returns by variant the mean and the standard deviation (`<name>_std`) of every number over its finished runs.

    rows: of the leaderboard, in whose order the variants are, and whose own numbers are taken where it has them.
    """
    done = runs[runs["status"] == "finished"]
    numbers = [name for name in done.select_dtypes("number").columns if done[name].notna().any()]
    grouped = done.groupby("variant")[numbers]
    own = pd.DataFrame(
        {
            column: [float(row[column]) for row in rows]
            for name in FIRST
            if rows and name in rows[0]
            for column in (name, f"{name}_std")
        },
        index=[row["variant"] for row in rows],
    )
    found = pd.concat([grouped.mean(), grouped.std(ddof=1).add_suffix("_std")], axis=1).reindex(own.index)
    return pd.concat([found.drop(columns=own.columns, errors="ignore"), own], axis=1)


def by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Returns by variant the mean accuracy on each group of corruptions. table: corruptions.csv.

    It has the column of a spread for each (`<measure>_std`), without values: no table has these of single runs.
    """
    found = {}
    for name, members in GROUPED.items():
        own = table[table["corruption"].isin(members)] if len(table) else table
        if len(own) and own["mean"].notna().any():
            found[name] = own.groupby("variant")["mean"].mean()
            found[f"{name}_std"] = pd.Series(math.nan, found[name].index)
    return pd.DataFrame(found)


def tests(dataset: DatasetFacts | None) -> list[str]:
    """Returns a sentence on what the test set can resolve; none for a dataset of which there is no record."""
    return [] if dataset is None else [f"Tested on {dataset.test:,} images: {resolution(dataset.test)}."]


def seeds(count: int) -> str:
    """Returns a sentence on the number of seeds."""
    if count == 1:
        return "One seed: a verdict needs three."
    return f"{count} seeds a variant{': a verdict needs three' if count < 3 else ''}."


def shown(board: Grid, verdicts: Verdicts, baseline: str | None) -> list[str]:
    """Returns a sentence on the smallest effects that could have been shown; none without verdicts."""
    found = []
    for column in board.columns:
        effect = verdicts.smallest_effects(column.key, baseline) if column.shown else []
        if effect:
            words = measure(column.key)
            name = words.head if words.head[1:2].isupper() else words.head[:1].lower() + words.head[1:]
            found.append(f"{name} {effects(effect, words.factor, words.unit)}")
    if not found:
        return []
    return [
        f"With so many seeds and images, these are the smallest differences to {baseline} that would have been shown "
        f"four times out of five: {', '.join(found)}. Where variants are indistinguishable, smaller ones may exist."
    ]


def pictures(folder: Path, names: list[str], real: Path) -> dict[str, list[tuple[str, str]]]:
    """Returns the samples of each variant, seed by seed, and before them the real images if there is a picture.

    folder: of the samples, as `<variant>/<seed>.png`. real: the picture of real images.
    """
    found = {name: sorted((folder / name).glob("*.png"), key=lambda path: int(path.stem)) for name in names}
    samples = {name: [(f"seed {path.stem}", data_address(path)) for path in paths] for name, paths in found.items()}
    return ({"": [("real images", data_address(real))]} if real.is_file() else {}) | samples


def films(folder: Path, names: list[str], runs: pd.DataFrame, history: pd.DataFrame) -> list[Film]:
    """Returns the film strips of the variants that have one.

    folder: of the strips, as `<variant>/<seed>.png`. names: of the variants, in their order. runs, history: the rows of
    the task in runs.csv and gan_curves.csv.
    """
    status = {(run["variant"], str(run["seed"])): run["status"] for run in runs.to_dict("records")}
    return [
        Film(name, path.stem, status.get((name, path.stem), ""), times(history, name, path.stem), data_address(path))
        for name in names
        for path in sorted((folder / name).glob("*.png"))
    ]


def times(history: pd.DataFrame, variant: str, seed: str) -> str:
    """Returns the iterations of a run's film strip: `iterations 25, 50, ... 500`; empty if they are not known.

    history: the rows of the task in gan_curves.csv.
    """
    if not len(history):
        return ""
    own = history[(history["variant"] == variant) & (history["seed"].astype(str) == seed)]
    every = [str(iteration) for iteration in own["iteration"]]
    if len(every) < 2:
        return "".join(f"iteration {each}" for each in every)
    return f"iterations {', '.join(every)}" if len(every) < 5 else f"iterations {every[0]}, {every[1]}, … {every[-1]}"


def anchor(name: str, taken: set[str]) -> str:
    """Returns an id for a name that can stand in an address, and notes it in `taken`."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section"
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}-{number}"
    taken.add(found)
    return found
