"""The stage `report`: turns the tables of build/tables into one HTML page without scripts and external files.

The same tables give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import pandas as pd
from matplotlib import style

from normbench.corruptions import MAIN
from normbench.results import vega, words
from normbench.results.drawing import STYLE, Look
from normbench.results.sections import data_address, gan_section, task_section
from normbench.results.tables import checksums
from normbench.results.tables.cells import original
from normbench.results.tables.facts import Facts
from normbench.results.tables.markdown import outcome
from normbench.results.tables.reasons import MISSING
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.progress import duration

TABLES = ("leaderboard", "gan", "robustness", "corruptions", "curves", "smoothness", "layers", "features")
NAMES = ("task", "variant", "method", "corruption", "layer", "when", "no_bound", MISSING)  # the columns that hold text
FILTERS = (words.number, words.spread, words.pairs, words.cited, words.machine, words.counted, words.recipe, duration)


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
    suite = facts.suite
    tables = {name: read(folder / f"{name}.csv") for name in TABLES}
    missing = files.read_json(folder / "missing.json")
    looks = {name: Look(i) for i, name in enumerate(dict.fromkeys([*suite.variants, *suite.gan_variants]))}
    tasks, gan_tasks = facts.tasks[Kind.CLASSIFICATION], facts.tasks[Kind.GAN]
    with style.context(STYLE, after_reset=True):
        sections = [
            task_section(f"task{i}", name, tasks[name], tables, looks, missing) for i, name in enumerate(suite.tasks)
        ]
    samples = folder / "samples"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            suite=suite,
            overview=words.overview(suite),
            glyphs={name: look.glyph() for name, look in looks.items()},
            tasks=sections,
            gan_tasks=[gan_section(name, gan_tasks[name], tables["gan"], samples, missing) for name in suite.gan_tasks],
            corrupted=[(path.stem, data_address(path)) for path in sorted((folder / "corrupted").glob("*.png"))],
            outcome=outcome,
            main_run=len(facts.corruptions.main),
            main=len(MAIN),
        )
    )


def read(path: Path) -> pd.DataFrame:
    """Reads a table. Only empty cells are missing values, and names stay text: a variant may be called `NA` or `1`."""
    found = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    found = found.rename(columns=original)
    for name in found.columns.intersection(list(NAMES)):
        found[name] = found[name].map(original, na_action="ignore")
    return found


def environment() -> jinja2.Environment:
    """Returns the environment of the templates, with the filters. An undefined name in a template is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {function.__name__: function for function in FILTERS}
    return found
