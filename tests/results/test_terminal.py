"""The leaderboards in a terminal: plain elsewhere, never wider than it, with verdicts and the best of each column."""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path

import pytest

from normbench.results import terminal
from normbench.results.tables.cells import csv_text
from normbench.results.tables.segmentation import COLUMNS
from normbench.suite.suite import Suite
from normbench.system import files
from tests.results.made_up_suite import GAN_TASK, TASK, VARIANTS

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HEAD = ["task", "variant", "clean_accuracy", "clean_accuracy_std", "clean_verdict", "corruption_accuracy"]
HEAD += ["corruption_accuracy_std", "corruption_verdict", "mce", "peak_memory_mib", "parameters", "runs", "finished"]
GAN_HEAD = ["task", "variant", "fid", "fid_std", "fid_verdict", "peak_memory_mib", "parameters", "runs", "finished"]
ROWS = [
    [
        "a",
        "first",
        "0.9851",
        "0.0064",
        "better",
        "0.8393",
        "0.05",
        "indistinguishable",
        "109.7",
        "5.69",
        "21106",
        "3",
        "3",
    ],
    ["a", "base", "0.9824", "0.0105", "", "0.8461", "0.01", "", "100.0", "3.11", "19810", "3", "3"],
    ["a", "=[red]x[/red]", "0.5", "", "worse", "0.4", "", "", "", "3.11", "19810", "3", "1"],
    ["a", "none", "", "", "", "", "", "", "", "", "", "3", "0"],
    ["b", "base", "0.5", "", "", "0.4", "", "", "", "3.11", "19810", "1", "1"],
]
GAN_ROWS = [
    ["g", "low", "4.711", "1", "better", "3.16", "35441", "3", "3"],
    ["g", "high", "14", "1.1", "", "4", "7", "3", "3"],
]


class Terminal(io.StringIO):
    """A stream that is a terminal. encoding: of what it can show."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    Suite(
        seeds=[0], datasets=["d"], tasks=["a"], variants=["base"], baseline="base", gan_tasks=[], gan_variants=[]
    ).write(Path("build/resolved/suite.json"))
    files.write_text("build/tables/leaderboard.csv", csv_text([HEAD, *ROWS]))
    files.write_text("build/tables/segmentation.csv", csv_text([list(COLUMNS)]))
    files.write_text("build/tables/gan.csv", csv_text([GAN_HEAD, *GAN_ROWS]))


def shown(width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines on a terminal of some width; None for no terminal."""
    stream = io.StringIO() if width is None else Terminal()
    if width is not None:
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((width, 24)))
    terminal.show(stream)
    return stream.getvalue().splitlines()


def test_plain(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [re.split(" {2,}", line) for line in shown(None, monkeypatch)]
    head = ["variant", "clean accuracy %", "verdict", "corruption accuracy %", "verdict", "runs", "mCE %"]
    head += ["parameters", "peak memory MiB"]
    assert cells == [
        [""],
        ["a"],
        head,
        ["first", "98.51 ± 0.64 *", "better", "83.93 ± 5.00", "=", "3/3", "109.7", "21106", "5.69"],
        ["base", "98.24 ± 1.05", "84.61 ± 1.00 *", "3/3", "100.0 *", "19810", "3.11"],
        ["=[red]x[/red]", "50.00", "worse", "40.00", "1/3", "19810", "3.11"],
        ["none", "0/3"],
        [""],
        ["b"],
        head,
        ["base", "50.00", "40.00", "1/1", "19810", "3.11"],
        [""],
        ["g"],
        ["variant", "FID", "verdict", "runs", "parameters", "peak memory MiB"],
        ["low", "4.71 ± 1.00 *", "better", "3/3", "35441", "3.16"],
        ["high", "14.00 ± 1.10", "3/3", "7", "4"],
        [""],
        ["* best of its column; verdict against base: better, worse, or = indistinguishable"],
        ["results/report.html: the report; `normbench serve` shows it"],
    ]


def test_colours(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say nothing that the plain text does not."""
    live = shown(200, monkeypatch)
    assert any(COLOUR.search(line) for line in live)
    assert [COLOUR.sub("", line).rstrip() for line in live] == shown(None, monkeypatch)
    assert "[red]x[/red]" in "\n".join(live)  # a name, and no colour
    assert set("\n".join(live)) & set("\x1b") == set("\x1b")
    assert not re.search(r"\x1b(?!\[[0-9;]*m)", "\n".join(live))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120])
def test_it_is_no_wider_than_the_terminal(width: int, tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [COLOUR.sub("", line) for line in shown(width, monkeypatch)]
    within = [line for line in lines if not line.startswith(("* best", "results/"))]
    assert max(map(len, within)) <= width
    assert ("…" in "".join(within)) == (width == 20)
    heads = [[line for line in each if line.startswith("variant")] for each in (lines, shown(None, monkeypatch))]
    for line, full in zip(*heads, strict=True) if width > 20 else ():
        assert full.startswith(line.rstrip())  # The columns on the right are left out, whole.


def test_a_terminal_without_the_characters(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert "98.51 \\xb1 0.64 *" in COLOUR.sub("", "\n".join(shown(200, monkeypatch)))


def test_the_tables_of_a_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `aggregate` writes them."""
    monkeypatch.chdir(folder)
    lines = shown(None, monkeypatch)
    assert {TASK, GAN_TASK} <= set(lines)
    start = lines.index(TASK) + 2
    assert {line.split()[0] for line in lines[start : start + len(VARIANTS)]} == set(VARIANTS)
    best = next(line for line in lines if line.startswith("network_deconvolution"))
    assert re.match(r"network_deconvolution +99\.\d\d ± 0\.\d\d \*", best)
