"""The sections of the report: one for each task and each GAN task."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.results.charts import Chart, Look, charts, gan_charts
from normbench.results.page.compare import comparable
from normbench.results.page.details import (
    agreement_grid,
    class_grid,
    comparison_grid,
    corruption_grid,
    feature_grids,
    layer_grids,
)
from normbench.results.page.grid import Grid
from normbench.results.page.leaderboard import leaderboard
from normbench.results.page.names import Variants, measure
from normbench.results.page.scores import nothing_certified, robustness_grid, smoothness_grid, suspicious
from normbench.results.page.verdicts import Verdicts
from normbench.results.tables.facts import Facts, TaskFacts
from normbench.results.words import effects, resolution
from normbench.runs.run import Kind

Tables = dict[str, pd.DataFrame]  # by the name of their file

REAL = "real"  # the name of the picture of real images among the samples


@dataclass(frozen=True)
class Section:
    """The values that the template shows for a task of either kind.

    anchor: its id on the page. board: the leaderboard. reading: sentences on what its numbers can show. charts: in
    their order. grids: the wide tables. data: for the script. remarks: further sentences. samples: of a GAN, the
    caption and the data address of each picture, by variant.
    """

    anchor: str
    name: str
    facts: TaskFacts
    board: Grid
    reading: list[str]
    charts: list[Chart]
    scores: list[Grid]
    grids: list[Grid]
    data: dict[str, Any]
    remarks: list[str]
    suspicious: list[str]
    unfinished: list[str]
    tuned: bool
    samples: dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Suite:
    """What all sections share: the facts, the tables, missing.json, the looks of variants and the links to runs."""

    facts: Facts
    tables: Tables
    missing: dict[str, Any]
    looks: Mapping[str, Look]
    links: Mapping[tuple[str, str, str], str]

    def own(self, kind: Kind, task: str) -> Tables:
        """Returns the rows of a task in every table that has tasks."""
        found = {}
        for name, table in self.tables.items():
            if "task" in table:
                mine = table["task"] == task
                found[name] = table[mine & (table["kind"] == kind.value)] if "kind" in table else table[mine]
        return found


def task_section(suite: Suite, name: str, anchor: str) -> Section:
    """Returns the section of a task."""
    facts, own = suite.facts.tasks[Kind.CLASSIFICATION][name], suite.own(Kind.CLASSIFICATION, name)
    why = {table: suite.missing[table].get(name, {}) for table in ("leaderboard", "robustness", "smoothness")}
    rows = own["leaderboard"].to_dict("records")
    tuned = frozenset(row["variant"] for row in rows if row["tuned"])
    variants = named(suite, tuned)
    verdicts, means = Verdicts(own["comparisons"]), spreads(own["runs"])
    names = [row["variant"] for row in rows]
    means = means.reindex(names)
    links = {variant: suite.links.get((Kind.CLASSIFICATION.value, name, variant), "runs") for variant in names}
    scores = [robustness_grid(variants, own["robustness"], own["runs"], verdicts, why["robustness"])]
    scores += [smoothness_grid(variants, own["smoothness"], why["smoothness"])]
    grids = [
        comparison_grid(variants, names, verdicts),
        corruption_grid(variants, own["corruptions"]),
        *([class_grid(variants, own["classes"])] if len(own.get("classes", ())) else []),
        *([agreement_grid(variants, own["agreement"])] if len(own.get("agreement", ())) else []),
        *layer_grids(own["layers"]),
        *feature_grids(variants, own["features"]),
    ]
    off = suite.missing["off"].get(name, [])
    remarks = [nothing_certified(own["smoothness"])]
    remarks += [f"Not measured, as `evaluation` in `params.yaml` has it off: {', '.join(off)}."] if off else []
    images = suite.facts.datasets[facts.task.dataset].test
    order = [variant for variant in suite.facts.suite.variants if variant in names]
    return Section(
        anchor=anchor,
        name=name,
        facts=facts,
        board=leaderboard(rows, means, own["speeds"], verdicts, variants, why["leaderboard"], links),
        reading=[*tests(images, len(suite.facts.suite.seeds)), *shown(verdicts, suite.facts.suite.baseline)],
        charts=charts(name, suite.tables, dict(suite.looks)),
        scores=[grid for grid in scores if grid],
        grids=[grid for grid in grids if grid],
        data=comparable(order, means, verdicts, own["corruptions"], own["classes"], own["agreement"]),
        remarks=[remark for remark in remarks if remark],
        suspicious=suspicious(own["robustness"]),
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        tuned=bool(tuned),
        samples={},
    )


def gan_section(suite: Suite, name: str, anchor: str, folder: Path) -> Section:
    """Returns the section of a GAN task. folder: holds the samples as `<task>/<variant>/<seed>.png`."""
    facts, own = suite.facts.tasks[Kind.GAN][name], suite.own(Kind.GAN, name)
    rows = own["gan"].to_dict("records")
    variants, verdicts = named(suite, frozenset()), Verdicts(own["comparisons"])
    names = [row["variant"] for row in rows]
    means = spreads(own["runs"]).reindex(names)
    links = {variant: suite.links.get((Kind.GAN.value, name, variant), "runs") for variant in names}
    why = suite.missing["gan"].get(name, {})
    order = [variant for variant in suite.facts.suite.gan_variants if variant in names]
    none = pd.DataFrame()
    baseline = suite.facts.suite.baseline
    return Section(
        anchor=anchor,
        name=name,
        facts=facts,
        board=leaderboard(rows, means, own["speeds"], verdicts, variants, why, links),
        reading=[seeds(len(suite.facts.suite.seeds)), *shown(verdicts, baseline)],
        charts=gan_charts(name, suite.tables, dict(suite.looks)),
        scores=[],
        grids=[grid for grid in [comparison_grid(variants, names, verdicts)] if grid],
        data=comparable(order, means, verdicts, none, none, none),
        remarks=[],
        suspicious=[],
        unfinished=[row["variant"] for row in rows if not row["finished"]],
        tuned=False,
        samples=pictures(folder / name, names),
    )


def named(suite: Suite, tuned: frozenset[str]) -> Variants:
    """Returns how the variants of a section are named."""
    glyphs = {name: look.glyph() for name, look in suite.looks.items()}
    return Variants(glyphs, suite.facts.suite.baseline, tuned)


def spreads(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean and the standard deviation of every number over the finished runs of each variant."""
    done = runs[runs["status"] == "finished"]
    numbers = [name for name in done.select_dtypes("number").columns if done[name].notna().any()]
    grouped = done.groupby("variant")[numbers]
    return grouped.mean().join(grouped.std(ddof=1), rsuffix="_std")


def tests(images: int, count: int) -> list[str]:
    """Returns sentences on what the test set and the seeds can resolve."""
    return [f"Tested on {images:,} images: {resolution(images)}.", seeds(count)]


def seeds(count: int) -> str:
    """Returns a sentence on the number of seeds."""
    if count == 1:
        return "One seed: a verdict needs three."
    return f"{count} seeds a variant{': a verdict needs three' if count < 3 else ''}."


def shown(verdicts: Verdicts, baseline: str | None) -> list[str]:
    """Returns a sentence on the smallest effects that could have been shown; none without verdicts."""
    found = []
    for key in verdicts.measures:
        effect = verdicts.smallest_effects(key, baseline)
        if effect:
            words = measure(key)
            found.append(f"{words.head} {effects(effect, words.factor, words.unit)}")
    if not found:
        return []
    return [
        f"With so many seeds and images, these are the smallest differences to {baseline} that would have been shown "
        f"four times out of five: {'; '.join(found)}. Where variants are indistinguishable, smaller ones may exist."
    ]


def pictures(folder: Path, names: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Returns the samples of each variant, seed by seed, and before them the real images if there is a picture."""
    found = {name: sorted((folder / name).glob("*.png"), key=lambda path: int(path.stem)) for name in names}
    shown = {name: [(f"seed {path.stem}", data_address(path)) for path in paths] for name, paths in found.items()}
    real = folder / f"{REAL}.png"
    return ({"": [("real images", data_address(real))]} if real.is_file() else {}) | shown


def data_address(path: Path) -> str:
    """Returns a PNG file as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def anchor(name: str, taken: set[str]) -> str:
    """Returns an id for a name that can stand in an address, and notes it in `taken`."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section"
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}-{number}"
    taken.add(found)
    return found
