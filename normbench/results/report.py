"""The stage `report`: turns the tables of build/tables into one HTML page without external files.

The same tables give the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import normbench
from normbench.corruptions import MAIN
from normbench.results import vega, words
from normbench.results.charts import looks, overall_charts
from normbench.results.page.addresses import data_address
from normbench.results.page.findings import as_written, overall_grid
from normbench.results.page.names import Variants
from normbench.results.page.run_panels import first_anchors, panels, run_grid
from normbench.results.page.sections import Suite, anchor, gan_section, segmentation_section, task_section
from normbench.results.tables import checksums
from normbench.results.tables.cells import original
from normbench.results.tables.facts import Facts
from normbench.results.tables.reasons import MISSING
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.narrowing import narrowed
from normbench.system.progress import duration
from normbench.training.task import Task

TABLES: tuple[str, ...] = (
    "leaderboard",
    "segmentation",
    "segmentation_classes",
    "segmentation_corruptions",
    "gan",
    "runs",
    "speeds",
    "comparisons",
    "robustness",
    "corruptions",
    "classes",
    "agreement",
    "curves",
    "gan_curves",
    "gan_norms",
    "smoothness",
    "layers",
    "features",
    "filters",
    "certified",
    "certified_curve",
    "bounds",
    "overall",
    "published",
    "claims",
)
# The columns that hold text, even where it looks like a number.
NAMES: tuple[str, ...] = (
    "kind",
    "task",
    "variant",
    "other",
    "method",
    "protocol",
    "measure",
    "corruption",
    "class",
    "layer",
    "when",
    "no_bound",
    "no_lipschitz",
    "no_curvature",
    "kernel",
    "tightest",
    "status",
    "device",
    "precision",
    "memory_format",
    "run",
    "verdict",
    MISSING,
)
FILTERS = (words.number, words.pairs, words.cited, words.machine, words.counted, words.recipe, duration)
PAGE = Path(__file__).parent / "page"
FIT = Path(__file__).parent / "charts/fit.js"


def report() -> None:
    """Write results/report.html from build/tables, and build/vega.js for the page of `dvc plots`.

    Raises UserError, with the command that mends it, if a file there is not as `aggregate` has written it.
    """
    checksums.check(layout.TABLES)
    vega.write()
    files.write_text(layout.RESULTS / "report.html", render(layout.TABLES))


def render(folder: Path) -> str:
    """Returns the page for a folder of tables that `aggregate` has written."""
    facts = Facts.read(folder / "provenance.json")
    tables = {name: read(folder / f"{name}.csv") for name in TABLES}
    all_variants = list(dict.fromkeys([*facts.suite.variants, *facts.suite.gan_variants]))
    drawn = looks(all_variants, facts.suite.baseline)
    suite = Suite(facts, tables, files.read_json(folder / "missing.json"), drawn, first_anchors(tables["runs"]))
    taken = {"main", "across", "published", "claims", "corruptions", "variants", "runs", "columns", "numbers", "cite"}
    tasks = [
        (segmentation_section if facts.suite.kind_of(name) is Kind.SEGMENTATION else task_section)(
            suite, name, anchor(name, taken), folder
        )
        for name in facts.suite.tasks
    ]
    gans = [gan_section(suite, name, anchor(name, taken), folder) for name in facts.suite.gan_tasks]
    glyphs = {name: look.glyph() for name, look in drawn.items()}
    classifiers = {
        name: narrowed(found.task, Task, f"task {name}") for name, found in facts.tasks[Kind.CLASSIFICATION].items()
    }
    across = overall_charts(tables, drawn, classifiers)
    interactive = bool(across) or any(section.charts for section in (*tasks, *gans))
    data = {
        "tasks": {section.anchor: section.data for section in (*tasks, *gans)},
        "baseline": facts.suite.baseline,
        **panels(files.read_json(folder / "runs.json"), tables["runs"]),
    }
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            suite=facts.suite,
            overview=words.overview(facts.suite),
            glyphs=glyphs,
            tasks=tasks,
            gan_tasks=gans,
            protocols=set(tables["segmentation"].get("protocol", [])),
            kinds={section.tag for section in (*tasks, *gans)},
            overall=overall_grid(Variants(glyphs, facts.suite.baseline), tables["overall"]),
            overall_charts=across,
            critical_difference=critical_difference(tables["overall"]),
            published=as_written("Published and measured", tables["published"]),
            claims=as_written("Claims", tables["claims"]),
            runs=run_grid(tables["runs"]),
            corrupted=[(path.stem, data_address(path)) for path in sorted((folder / "corrupted").glob("*.png"))],
            main_run=len(facts.corruptions.main),
            main=len(MAIN),
            citation=words.citation(normbench.__version__, facts),
            commands=words.commands(facts),
            data=script_json(data),
            vega=Markup(vega.bundle()) if interactive else "",
            fit=Markup(FIT.read_text(encoding="utf-8")),
        )
    )


def critical_difference(overall: pd.DataFrame) -> float | None:
    """Returns by how much average ranks must differ; None if that is not known."""
    if "critical_difference" not in overall:
        return None
    found = overall["critical_difference"].dropna()
    return float(found.iloc[0]) if len(found) else None


def read(path: Path) -> pd.DataFrame:
    """Reads a table; one that is not there has no rows, since some are written only where they say something.

    Only empty cells are missing values, and names stay text: a variant may be called `NA` or `1`.
    """
    if not path.is_file():
        return pd.DataFrame()
    found = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    found = found.rename(columns=original)
    for name in found.columns.intersection(list(NAMES)):
        found[name] = found[name].map(original, na_action="ignore")
    return found


def script_json(value: Any) -> Markup:
    """Returns a value as JSON that can stand in a script element: no text of it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def environment() -> jinja2.Environment:
    """Returns the environment of the templates, with the filters. An undefined name in a template is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {function.__name__: function for function in FILTERS} | {"script_json": script_json}
    return found
