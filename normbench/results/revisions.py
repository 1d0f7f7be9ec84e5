"""The tables of results/ in a revision of git, or as they lie in the working tree."""

from __future__ import annotations

import csv
import io
import subprocess
from dataclasses import dataclass

from normbench.results.tables.cells import original
from normbench.system import files, layout
from normbench.system.errors import UserError

RUNS = "runs"
# The tables with one row for each task and variant, and the kind of their tasks.
MEANS = {
    "leaderboard": "classification",
    "robustness": "classification",
    "smoothness": "classification",
    "segmentation": "segmentation",
    "gan": "gan",
}
CELL = ("task", "variant")  # columns that each of them has
RUN = ("kind", *CELL, "seed", "status", "run")  # and runs.csv

Rows = list[dict[str, str]]  # a text for each column


@dataclass(frozen=True)
class Revision:
    """The tables of a revision.

    name: as it was asked for. runs: the rows of runs.csv; None where there is no such file, as in results that are
    older than it. means: the rows of the tables in `MEANS` that are there, by name.
    """

    name: str
    runs: Rows | None
    means: dict[str, Rows]


def of_working_tree() -> Revision:
    """Returns the tables as they lie in results/. Raises UserError if there are none."""
    found = {}
    for name in (RUNS, *MEANS):
        path = layout.RESULTS / f"{name}.csv"
        if path.is_file():
            found[name] = rows(files.read_text(path), name, str(path))
    return _revision("the working tree", found)


def of(name: str) -> Revision:
    """Returns the tables of a revision, `HEAD~1` or `v1.0`. Raises UserError if git knows none, or none has tables."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        if _git("rev-parse", "--is-inside-work-tree") is None:
            raise UserError("this folder is not in a git repository")
        hint = "; two revisions are given with a space between them" if ".." in name else ""
        raise UserError(f"{name}: git knows no such revision{hint}")
    found = {}
    folder = f"{commit.decode().strip()}:./{layout.RESULTS}"
    for table in (RUNS, *MEANS):
        content = _git("show", f"{folder}/{table}.csv")
        if content is not None:
            place = f"{name}:{layout.RESULTS}/{table}.csv"
            found[table] = rows(files.text_of(content, place), table, place)
    return _revision(name, found)


def rows(text: str, table: str, place: str) -> Rows:
    """Returns the rows of a table. Raises UserError, with the line, if the text is none. place: names the file."""
    lines = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [original(name) for name in next(lines, [])]
        found = []
        for line in lines:
            if len(line) != len(header):
                raise UserError(f"{place}:{lines.line_num}: has {len(line)} cells, but the header {len(header)}")
            found.append(dict(zip(header, map(original, line), strict=True)))
    except csv.Error as error:
        raise UserError(f"{place}:{lines.line_num}: no CSV: {error}") from None
    missing = [name for name in (RUN if table == RUNS else CELL) if name not in header]
    if missing:
        raise UserError(f"{place}: has no column '{missing[0]}'")
    for number, row in enumerate(found, start=2):
        if table == RUNS and not row["seed"].isdecimal():
            raise UserError(f"{place}:{number}: seed = {row['seed']!r}: is no seed")
    return found


def _revision(name: str, found: dict[str, Rows]) -> Revision:
    if not {RUNS, "leaderboard", "gan"} & found.keys():
        raise UserError(f"{name}: has no tables in {layout.RESULTS}/; `make results` writes them")
    return Revision(name, found.pop(RUNS, None), found)


def _git(*arguments: str) -> bytes | None:
    """Returns what git prints; None if it fails. Raises UserError without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except OSError:
        raise UserError("git: cannot be called, and only it has the tables of another revision") from None
    return done.stdout if done.returncode == 0 else None
