"""The tables of build/tables to one HTML page that needs no script and no other file.

The same tables give the same bytes.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from normbench.corruptions import MAIN
from normbench.results.drawing import HEIGHT, MUTED, PAPER, STYLE, WIDTH, Look, inline, new_figure
from normbench.results.smoothness_plots import energy_plot, feature_plot, layer_plot
from normbench.results.tables import TABLES, outcome
from normbench.system import files, layout
from normbench.system.progress import duration

DISTANCES, ANGLES = (8, 18, 30, 44), (0, 180, 90, 270, 30, 150, 330, 210)  # of names from their points, in degrees
LABEL_SIZE = 8.5
LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
MANY = 8  # variants; more of them take plots over the whole page


def report() -> None:
    """Write results/report.html from build/tables."""
    files.write_text(layout.RESULTS / "report.html", render(TABLES))


def render(folder: Path) -> str:
    """The page of the tables in a folder as `aggregate` writes it."""
    facts = files.read_json(folder / "provenance.json")
    suite = facts["suite"]
    names = ("leaderboard", "gan", "robustness", "corruptions", "curves", "smoothness", "layers", "features")
    tables = {name: read(folder / f"{name}.csv") for name in names}
    looks = {name: Look(i) for i, name in enumerate(dict.fromkeys([*suite["variants"], *suite["gan_variants"]]))}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (number, spread, pairs, cited, machine, duration, counted)}
    with style.context(STYLE, after_reset=True):
        tasks = [task_section(f"task{index}", name, facts, tables, looks) for index, name in enumerate(suite["tasks"])]
    return environment.get_template("report.html.j2").render(
        facts=facts,
        suite=suite,
        overview=overview(suite),
        glyphs={name: look.glyph() for name, look in looks.items()},
        tasks=tasks,
        corrupted=[(path.stem, data_address(path)) for path in sorted((folder / "corrupted").glob("*.png"))],
        gan_tasks=[gan_section(name, facts, tables["gan"], folder) for name in suite["gan_tasks"]],
        outcome=outcome,
        main_run=sum(name in MAIN for name in facts["corruptions"]["names"]),
        main=len(MAIN),
    )


def read(path: Path) -> pd.DataFrame:
    """A table; a variant may be called `NA` or `1`, so that only empty cells are missing and names stay text."""
    names = dict.fromkeys(("task", "variant", "method", "corruption", "layer", "when", "no_bound"), str)
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])


def rows_of(table: pd.DataFrame, task: str) -> list[dict[str, Any]]:
    return table[table["task"] == task].to_dict("records")


def clear_best(rows: list[dict[str, Any]], column: str, highest: bool) -> str | None:
    """The variant whose mean, less its standard deviation, is better than every other's mean plus its own; or None.

    A variant with one finished run has no standard deviation: it cannot be the best, and counts with its value alone
    against another.
    """
    sign = 1 if highest else -1
    ranked = sorted((row for row in rows if not math.isnan(row[column])), key=lambda row: -sign * row[column])
    if len(ranked) < 2 or math.isnan(ranked[0][f"{column}_std"]):
        return None
    low = sign * ranked[0][column] - ranked[0][f"{column}_std"]
    rivals = [sign * row[column] + np.nan_to_num(row[f"{column}_std"]) for row in ranked[1:]]
    return ranked[0]["variant"] if low > max(rivals) else None


def task_section(
    key: str, name: str, facts: dict[str, Any], tables: dict[str, pd.DataFrame], looks: dict[str, Look]
) -> dict[str, Any]:
    """What the page shows of a task: its rows, which of them are marked, and the plots, whose ids begin with `key`."""
    own = {table: found[found["task"] == name] for table, found in tables.items()}
    rows, robustness = (own[table].to_dict("records") for table in ("leaderboard", "robustness"))
    drawn = [row for row in rows if row["finished"]]
    grid, history = own["corruptions"], own["curves"]
    spec = facts["tasks"]["classification"][name]
    wide = len(rows) > MANY
    width = 2 * WIDTH if wide else WIDTH
    figures = {}
    if drawn:
        figures["speed"] = ("Clean accuracy against training speed", speed_plot(drawn, looks))
        figures["robustness"] = ("Corruption accuracy against clean accuracy", robustness_plot(drawn, looks))
        figures["corruptions"] = ("Accuracy by variant and corruption", heatmap(drawn, grid, width))
    if len(history):
        order, epochs = [row["variant"] for row in rows], spec["recipe"]["epochs"]
        figures["loss"] = ("Training loss by epoch", loss_plot(history, order, epochs, looks, width))
    ordered = {row["variant"]: looks[row["variant"]] for row in rows}
    if len(own["layers"]):
        figures["layers"] = ("Norm of each layer", layer_plot(own["layers"], ordered, width))
    if len(own["features"]):
        figures["features"] = ("Size of feature maps by depth", feature_plot(own["features"], ordered, width))
        figures["energy"] = ("Energy of feature maps by frequency", energy_plot(own["features"], ordered))
    plots = {plot: inline(figure, f"{key}-{plot}", title) for plot, (title, figure) in figures.items()}
    return {
        "name": name,
        "spec": spec,
        "rows": rows,
        "best": {column: clear_best(rows, column, True) for column in ("clean_accuracy", "corruption_accuracy")},
        "robustness": robustness_columns(rows, {row["variant"]: row for row in robustness}),
        "suspicious": [row["variant"] for row in robustness if row["warnings"]],
        "smoothness": smoothness_columns(rows, own["smoothness"]),
        "unfinished": [row["variant"] for row in rows if not row["finished"]],
        "plots": plots,
        "wide": wide,
    }


# Heading, its small print, column of robustness.csv, factor and format.
ROBUSTNESS = (
    ("ECE", "clean, %", "ece", 100, ".2f"),
    ("ECE", "corrupted, %", "corrupted_ece", 100, ".2f"),
    ("NLL", "clean", "nll", 1, ".3f"),
    ("NLL", "corrupted", "corrupted_nll", 1, ".3f"),
    ("Relative mCE", "%", "relative_mce", 1, ".1f"),
    ("Corruption accuracy", "batch statistics, %", "batch_corruption_accuracy", 100, ".2f"),
    ("Attacked images", "clean, %", "attack_clean", 100, ".1f"),
    ("FGSM", "%", "attack_fgsm", 100, ".1f"),
    ("PGD", "%", "attack_pgd", 100, ".1f"),
    ("AutoAttack", "%", "auto_attack", 100, ".1f"),
)


def robustness_columns(rows: list[dict[str, Any]], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Headings and, by variant in the order of the leaderboard, the texts of the columns that have a number."""
    kept = [c for c in ROBUSTNESS if any(not math.isnan(row[c[2]]) for row in found.values())]
    cells = {
        row["variant"]: [number(factor * found[row["variant"]][column], form) for _, _, column, factor, form in kept]
        for row in rows
    }
    return {"heads": [(head, small) for head, small, *_ in kept], "cells": cells}


# Heading, its small print, column of smoothness.csv.
SMOOTHNESS = (
    ("Lipschitz", "at images", "lipschitz_local"),
    ("Lipschitz", "largest at images", "lipschitz_local_max"),
    ("Lipschitz", "bound", "lipschitz_bound"),
    ("Norms of layers", "sum of bounds", "layer_bound_sum"),
    ("Norms of layers", "largest bound", "layer_bound_max"),
)


def smoothness_columns(rows: list[dict[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
    """As of `robustness_columns`, the certified accuracies too; and the variants without a bound, with the reason."""
    columns = [(head, small, column, 1) for head, small, column in SMOOTHNESS]
    for column in table.columns:
        if column.startswith("certified_") and not column.endswith("_std"):
            columns.append(("Certified", f"within {column.removeprefix('certified_')}/255, %", column, 100))
    kept = [column for column in columns if table[column[2]].notna().any()]
    found = {row["variant"]: row for row in table.to_dict("records")}
    cells = {
        row["variant"]: [
            quantity(factor * found[row["variant"]][column], factor * found[row["variant"]][f"{column}_std"])
            for _, _, column, factor in kept
        ]
        for row in rows
    }
    unbounded = {row["variant"]: row["no_bound"] for row in found.values() if isinstance(row["no_bound"], str)}
    return {"heads": [(head, small) for head, small, *_ in kept], "cells": cells, "unbounded": unbounded}


def gan_section(name: str, facts: dict[str, Any], gan: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """What the page shows of a GAN task: its rows and the sample grids as (variant, seed, data address)."""
    rows = rows_of(gan, name)
    samples = [
        (row["variant"], path.stem, data_address(path))
        for row in rows
        for path in sorted((folder / "samples" / name / row["variant"]).glob("*.png"))
    ]
    spec = facts["tasks"]["gan"][name]
    return {"name": name, "spec": spec, "rows": rows, "best": clear_best(rows, "fid", False), "samples": samples}


def data_address(path: Path) -> str:
    """A PNG as part of the page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


# Text

NONE = "\N{EN DASH}"


def number(value: float, form: str) -> str:
    """A dash where there is no number."""
    return NONE if math.isnan(value) else format(value, form)


def spread(mean: float, deviation: float, factor: float = 1.0) -> Markup:
    """`98.61 ± 0.32`, the second part set back; a dash where there is no number."""
    if math.isnan(mean):
        return Markup(NONE)
    behind = "" if math.isnan(deviation) else Markup(' <span class="sd">± {:.2f}</span>').format(factor * deviation)
    return Markup("{:.2f}{}").format(factor * mean, behind)


def quantity(mean: float, deviation: float) -> Markup:
    """As `spread`; from 1000 on with a power of ten for both numbers, `2.81 ± 0.44 ×10⁴`."""
    if math.isnan(mean) or abs(mean) < 1000:
        return spread(mean, deviation)
    exponent = math.floor(math.log10(abs(mean)))
    return spread(mean, deviation, 10.0**-exponent) + Markup(" \N{MULTIPLICATION SIGN}10<sup>{}</sup>").format(exponent)


def pairs(values: dict[str, Any]) -> str:
    """`lr 0.1, epochs 12`."""
    return ", ".join(f"{key} {shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """As it stands in params.yaml."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def cited(text: str) -> Markup:
    """Text with its arXiv ids as links and its `names` as code."""
    safe = str(escape(text))
    safe = re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', safe)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", safe))


def machine(device: dict[str, Any]) -> str:
    """The device that trained, and what its speed depends on."""
    parts = [device["name"]]
    if "threads" in device:
        parts.append(f"{device['threads']} of {device['cores']} cores")
    if "cuda" in device:
        parts.append(f"CUDA {device['cuda']}")
    return ", ".join([*parts, device["system"]])


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def overview(suite: dict[str, Any]) -> str:
    """The suite in one line."""
    parts = [
        f"{counted(len(suite[variants]), 'variant')} on {counted(len(suite[tasks]), noun)}"
        for tasks, variants, noun in (("tasks", "variants", "task"), ("gan_tasks", "gan_variants", "GAN task"))
        if suite[tasks]
    ]
    seeds = ", ".join(map(str, suite["seeds"]))
    return f"{' and '.join(parts)}, {counted(len(suite['seeds']), 'seed')} each ({seeds})"


# Plots


def speed_plot(rows: list[dict[str, Any]], looks: dict[str, Look]) -> Figure:
    """Clean accuracy against images a second, of rows with finished runs."""
    figure, axes = new_figure(WIDTH, HEIGHT)
    speeds = [row["images_per_second"] for row in rows]
    points = [(row["variant"], x, 100 * row["clean_accuracy"]) for row, x in zip(rows, speeds, strict=True)]
    bars = [(0.0, 100 * row["clean_accuracy_std"]) for row in rows]
    if max(speeds) > 10 * min(speeds):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("training speed (images/s)")
    axes.set_ylabel("clean accuracy (%)")
    scatter(figure, axes, points, bars, looks)
    return figure


def robustness_plot(rows: list[dict[str, Any]], looks: dict[str, Look]) -> Figure:
    """Corruption accuracy against clean accuracy, of rows with finished runs."""
    figure, axes = new_figure(WIDTH, HEIGHT)
    points = [(row["variant"], 100 * row["clean_accuracy"], 100 * row["corruption_accuracy"]) for row in rows]
    bars = [(100 * row["clean_accuracy_std"], 100 * row["corruption_accuracy_std"]) for row in rows]
    axes.set_xlabel("clean accuracy (%)")
    axes.set_ylabel("corruption accuracy (%)")
    scatter(figure, axes, points, bars, looks)
    return figure


def scatter(
    figure: Figure,
    axes: Axes,
    points: list[tuple[str, float, float]],
    bars: list[tuple[float, float]],
    looks: dict[str, Look],
) -> None:
    """Markers at (variant, x, y) with bars of plus and minus (x, y), and the variants' names beside them."""
    axes.margins(0.12)
    for (name, x, y), (dx, dy) in zip(points, np.nan_to_num(bars), strict=True):
        look = looks[name]
        axes.errorbar(
            x,
            y,
            xerr=dx or None,
            yerr=dy or None,
            color=look.colour,
            marker=look.marker,
            markersize=look.size,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
            elinewidth=1.1,
        )
    figure.draw_without_rendering()  # after this, places on the paper are known, and they stay
    figure.set_layout_engine("none")
    label(figure, axes, points, np.nan_to_num(bars))


def label(figure: Figure, axes: Axes, points: list[tuple[str, float, float]], bars: np.ndarray) -> None:
    """Each point's name at the nearest free place around it, with a line to it where that is not next to it.

    A name that finds no place is left out: the table shows its marker. Lengths are pixels, which are points at 72 dpi.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = []
    for (_, x, y), (dx, dy) in zip(points, bars, strict=True):
        left, low, right, high = axes.transData.transform([(x - dx, y - dy), (x + dx, y + dy)]).ravel()
        across, up = (left + right) / 2, (low + high) / 2
        taken.append(Bbox([[across - 4, up - 4], [across + 4, up + 4]]))
        taken += [Bbox([[left, up - 1], [right, up + 1]]), Bbox([[across - 1, low], [across + 1, high]])]
    for name, x, y in points:
        anchor = axes.transData.transform((x, y))
        sample = axes.text(0, 0, name, fontsize=LABEL_SIZE)
        size = np.array(sample.get_window_extent(renderer).size)
        sample.remove()
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            way = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))]).round(9)
            corner = anchor + distance * way - size * (1 - np.sign(way)) / 2
            place = Bbox([corner, corner + size])
            line = [Bbox([spot - 1, spot + 1]) for spot in anchor + np.outer(np.arange(8, distance - 3, 4), way)]
            inside = frame.x0 <= place.x0 and place.x1 <= frame.x1 and frame.y0 <= place.y0 and place.y1 <= frame.y1
            if inside and not any(box.count_overlaps(taken) for box in [place, *line]):
                taken += [place, *line]
                axes.annotate(
                    name,
                    (x, y),
                    tuple(distance * way),
                    textcoords="offset points",
                    ha=("right", "center", "left")[int(np.sign(way[0])) + 1],
                    va=("top", "center", "bottom")[int(np.sign(way[1])) + 1],
                    fontsize=LABEL_SIZE,
                    arrowprops=LEADER if distance > DISTANCES[0] else None,
                )
                break


def heatmap(rows: list[dict[str, Any]], grid: pd.DataFrame, width: float) -> Figure:
    """Accuracy on clean images, on each corruption (mean over severities) and on their mean; one column a variant."""
    names = list(dict.fromkeys(grid["corruption"]))
    means = grid.set_index(["corruption", "variant"])["mean"]
    variants = [row["variant"] for row in rows]
    values = [[row["clean_accuracy"] for row in rows]]
    values += [[means[name, variant] for variant in variants] for name in names]
    values += [[row["corruption_accuracy"] for row in rows]]
    percent = 100 * np.array(values, dtype=float)

    figure, axes = new_figure(max(width, 1.6 + 0.44 * len(variants)), 1.3 + 0.205 * len(percent))
    gap = 0.25  # rows: the clean and the mean one stand apart from the corruptions
    tops = np.array([0, *(1 + gap + np.arange(len(names))), 1 + 2 * gap + len(names)])
    low, high = percent.min(), percent.max()
    for top, line in zip(tops, percent, strict=True):
        axes.pcolormesh(
            np.arange(len(variants) + 1),
            [top, top + 1],
            line[None],
            cmap="viridis",
            vmin=low,
            vmax=high,
            edgecolors=PAPER,
            linewidth=1.0,
        )
        for column, value in enumerate(line):
            red, green, blue, _ = colormaps["viridis"]((value - low) / max(high - low, 1e-9))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = axes.text(
                column + 0.5,
                top + 0.53,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=8.5,
                color="#ffffff" if dark else "#000000",
            )
            text.set_in_layout(False)  # it lies within the axes: nothing to measure
    axes.set_yticks(tops + 0.5, ["clean", *(name.replace("_", " ") for name in names), "mean corruption"])
    axes.set_xticks(np.arange(len(variants)) + 0.5, variants, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def loss_plot(history: pd.DataFrame, variants: list[str], epochs: int, looks: dict[str, Look], width: float) -> Figure:
    """Training loss by epoch: mean over the runs that went through, band from their lowest to their highest.

    A run that broke off is a thin line of its own, which ends in a cross.
    """
    figure, axes = new_figure(width, HEIGHT + 1.2)
    for variant in variants:
        look = looks[variant]
        runs = [run for _, run in history[history["variant"] == variant].groupby("seed")]
        whole = [run["loss"].to_numpy() for run in runs if len(run) == epochs]
        if whole:
            x = np.arange(1, epochs + 1)
            axes.fill_between(x, np.min(whole, 0), np.max(whole, 0), color=look.colour, alpha=0.18, linewidth=0)
            axes.plot(
                x,
                np.mean(whole, 0),
                color=look.colour,
                linestyle=look.line,
                linewidth=1.5,
                marker=look.marker,
                markersize=0.8 * look.size,
                markeredgecolor=PAPER,
                markeredgewidth=0.5,
                markevery=max(1, epochs // 6),
                label=variant,
            )
        for run in runs:
            if len(run) < epochs:
                name = f"{variant} (diverged)" if not whole and run is runs[0] else None
                axes.plot(run["epoch"], run["loss"], color=look.colour, linestyle=look.line, linewidth=0.8, label=name)
                axes.plot(run["epoch"].iloc[-1], run["loss"].iloc[-1], "x", color=look.colour, markersize=6)
    if (history["loss"] > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=int(width // 2))
    return figure
