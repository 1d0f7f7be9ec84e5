"""The leaderboards in a terminal: what is compared, with the verdict of each against the baseline."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from normbench.results.tables.cells import original
from normbench.suite.suite import Suite
from normbench.system import layout
from normbench.system.text import clean, say

Row = dict[str, str]  # column -> the text of its cell

WHOLE = 1000  # characters of a line that is not shown on a terminal
BEST = " *"  # behind the best value of a column
STYLES = {"better": "green", "worse": "red"}
VERDICTS = {"indistinguishable": "="}  # shorter than the word


@dataclass(frozen=True)
class Column:
    """A column that a terminal shows.

    head: its heading. text: from a row to the text of its cell. measure: the column of the table whose highest value is
    marked, with `lowest` the lowest; empty for none.
    """

    head: str
    text: Callable[[Row], str]
    measure: str = ""
    lowest: bool = False


def percent(name: str) -> Callable[[Row], str]:
    """Returns the function that shows a fraction and its spread in percent: `98.61 ± 0.32`."""
    return lambda row: spread(row, name, 100)


def spread(row: Row, name: str, factor: float = 1) -> str:
    """Returns a number with its standard deviation, where it has one; empty without a number."""
    parts = [f"{factor * float(row[key]):.2f}" for key in (name, f"{name}_std") if row[key]]
    return " ± ".join(parts)


def verdict(name: str) -> Callable[[Row], str]:
    """Returns the function that shows the verdict of a column against the baseline."""
    return lambda row: VERDICTS.get(row[name], row[name])


def runs(row: Row) -> str:
    """Returns how many of a variant's runs finished: `3/3`."""
    return f"{row['finished']}/{row['runs']}"


WORDS = ("variant", "verdict", "runs")  # the headings of columns that are no numbers
VARIANT = Column("variant", lambda row: row["variant"])
# From the left: those on the right are left out where the terminal is too narrow for them.
CLASSIFIERS = [
    VARIANT,
    Column("clean accuracy %", percent("clean_accuracy"), "clean_accuracy"),
    Column("verdict", verdict("clean_verdict")),
    Column("corruption accuracy %", percent("corruption_accuracy"), "corruption_accuracy"),
    Column("verdict", verdict("corruption_verdict")),
    Column("runs", runs),
    Column("mCE %", lambda row: f"{float(row['mce']):.1f}" if row["mce"] else "", "mce", lowest=True),
    Column("parameters", lambda row: row["parameters"]),
    Column("peak memory MiB", lambda row: row["peak_memory_mib"]),
]
SEGMENTATION = [
    VARIANT,
    Column("mean IoU %", percent("mean_iou"), "mean_iou"),
    Column("verdict", verdict("mean_iou_verdict")),
    Column("corruption mean IoU %", percent("corruption_mean_iou"), "corruption_mean_iou"),
    Column("verdict", verdict("corruption_mean_iou_verdict")),
    Column("runs", runs),
    Column("pixel accuracy %", percent("pixel_accuracy"), "pixel_accuracy"),
    Column("parameters", lambda row: row["parameters"]),
    Column("peak memory MiB", lambda row: row["peak_memory_mib"]),
]
GANS = [
    VARIANT,
    Column("FID", lambda row: spread(row, "fid"), "fid", lowest=True),
    Column("verdict", verdict("fid_verdict")),
    Column("runs", runs),
    Column("parameters", lambda row: row["parameters"]),
    Column("peak memory MiB", lambda row: row["peak_memory_mib"]),
]


def show(stream: TextIO | None = None) -> None:
    """Prints the leaderboard of each task, as `aggregate` has written it, and the place of the report.

    stream: where to, stdout by default. On a terminal, the tables are as wide as that at most.
    """
    to = sys.stdout if stream is None else stream
    live = to.isatty()
    width = shutil.get_terminal_size().columns if live else WHOLE
    lines = []
    for name, columns in (("leaderboard", CLASSIFIERS), ("segmentation", SEGMENTATION), ("gan", GANS)):
        rows = read(layout.TABLES / f"{name}.csv")
        for task in dict.fromkeys(row["task"] for row in rows):
            lines += ["", *drawn(task, [row for row in rows if row["task"] == task], columns, width, live)]
    if lines:
        lines += ["", legend(Suite.resolved().baseline)]
    if live:
        # Every character of a table that could act is an escape by now, besides rich's own colours.
        text = "".join(f"{line}\n" for line in lines)
        to.write(text.encode(to.encoding, "backslashreplace").decode(to.encoding))
    else:
        say(*lines, to=to)
    say(f"{layout.RESULTS / 'report.html'}: the report; `normbench serve` shows it", to=to)


def legend(baseline: str | None) -> str:
    """Returns what the marks mean. baseline: its name; None without one."""
    best = f"{BEST.strip()} best of its column"
    if baseline is None:
        return best
    return f"{best}; verdict against {clean(baseline)}: better, worse, or = indistinguishable"


def read(path: Path) -> list[Row]:
    """Returns the rows of a table that `aggregate` has written."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{original(key): original(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def drawn(task: str, rows: list[Row], columns: list[Column], width: int, live: bool) -> list[str]:
    """Returns the lines of a task's table, in colours if `live`, at most `width` characters wide."""
    console = Console(file=io.StringIO(), width=width, force_terminal=live, highlight=False, markup=False, emoji=False)
    kept = list(columns)
    table = of_columns(task, rows, kept)
    while len(kept) > 2 and Measurement.get(console, console.options.update(max_width=WHOLE), table).maximum > width:
        del kept[-1]
        table = of_columns(task, rows, kept)
    with console.capture() as capture:
        console.print(table)
    return [line if live else line.rstrip() for line in capture.get().splitlines()]


def of_columns(task: str, rows: list[Row], columns: list[Column]) -> Table:
    """Returns the table of a task with some of the columns."""
    table = Table(title=Text(clean(task), style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.head in WORDS else "right"
        table.add_column(column.head, justify=justify, no_wrap=True, overflow="ellipsis")
    bests = {column.head: best(rows, column) for column in columns if column.measure}
    for row in rows:
        cells = []
        for column in columns:
            text = clean(column.text(row))
            marked = bool(text) and bests.get(column.head) == row[column.measure] if column.measure else False
            room = BEST if marked else " " * len(BEST) if column.measure else ""
            cells.append(Text(text + room, style="bold" if marked else STYLES.get(text, "")))
        table.add_row(*cells)
    return table


def best(rows: list[Row], column: Column) -> str | None:
    """Returns the best value of a column as its cells have it; None if fewer than two rows have one."""
    values = [row[column.measure] for row in rows if row[column.measure]]
    if len(values) < 2:
        return None
    return (min if column.lowest else max)(values, key=float)
