"""Names and values that a record brings are shown in tables, plots and pages, and do nothing there."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from normbench.results import load
from normbench.results.report import read, report
from normbench.results.tables import aggregate
from normbench.results.tables.cells import csv_cell, csv_text, markdown_cell, original
from normbench.results.tables.contact_sheet import PLAIN_TEXT, contact_sheet
from normbench.results.tables.table import PLAIN, REAL, Table
from normbench.system import files
from tests.results.made_up_suite import SEEDS, edit_metrics, place, rows, write_suite

FORMULAS = [
    "=cmd|' /C calc'!A1",
    "+1+cmd|x",
    "-2+3",
    "@SUM(A1)",
    " =1+1",
    "\uff1d1+1",
    "\uff0b1",
    "\uff0d1+1",
    "\uff20x",
    "=",
    "-",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_and_can_be_read_back(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(Table({"variant": PLAIN, "x": REAL}, [{"variant": text, "x": -0.5}]).csv(), encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        _, (first, number) = csv.reader(file)
    assert first == "'" + text
    assert number == "-0.5"
    table = read(path)
    assert table["variant"].tolist() == [text]
    assert table["x"].tolist() == [-0.5]


@pytest.mark.parametrize("text", ["-0.5", "+3", "-1e-05", "1", "-3.", "", "batch_norm", "a=b", "NA", "a-b"])
def test_numbers_and_other_texts_stay(text: str) -> None:
    assert csv_cell(text) == text
    assert original(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["'", "'=x", "''", 'a"b', "a;=b", "a,b", "a, b", " a "])
def test_other_signs_are_read_back(text: str) -> None:
    ((found,),) = csv.reader(io.StringIO(csv_text([[text]])))
    assert original(found) == text
    assert pd.read_csv(io.StringIO(csv_text([["h"], [text]])), dtype=str, sep=";").shape == (1, 1)  # of other countries


@pytest.mark.parametrize("text", ["\t=x", "\r=x", "\n=x", "a\n=x", "\x1b[2J", "\u202eabc"])
def test_characters_that_act_are_escapes(text: str) -> None:
    line = csv_text([[text, "b"]])
    assert line.count("\n") == 1
    assert line.strip("\n").isascii()
    assert line.strip("\n").isprintable()


def test_markdown() -> None:
    text = "a|b <b> `c` [d](http://e) _f_ *g* \\ ![h] # www.i.com __init__ ~j~ &lt;\n|x"
    assert markdown_cell("batch_norm-2") == "batch_norm-2"
    shown = markdown_cell(text)
    assert "\n" not in shown
    for sign in "|<>`[]*#~&":
        assert not re.search(rf"(?<!\\)(\\\\)*{re.escape(sign)}", shown), sign
    assert "http\\://" in shown
    assert "www\\." in shown
    assert "\\_f\\_" in shown
    assert markdown_cell("__init__") == "\\_\\_init\\_\\_"


LAYER = r"$\bad$<script>|=cmd"


def test_a_suite_with_bad_names(suite: None) -> None:
    """Names of layers and columns as a forged record could have them."""
    write_suite(variants=["batch_norm", "network_deconvolution"])

    def forge(metrics: dict[str, Any]) -> None:
        metrics["smoothness"]["layers"][0]["name"] = LAYER
        metrics["columns"] = {"=nll<b>": 0.5, "$x^$": 1}

    for seed in SEEDS:
        edit_metrics(place("batch_norm", seed), forge)
    aggregate()
    assert rows("results/layers.csv")[0]["layer"] == LAYER
    assert "'=nll<b>" in rows("results/robustness.csv")[0]
    assert {"=nll<b>", "$x^$"} <= set(read(Path("build/tables/robustness.csv")).columns)
    assert {"=nll<b>", "$x^$"} <= set(load().columns)  # as they are in the records
    report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert r"$\bad$&lt;script&gt;|=cmd" in page
    assert "=nll&lt;b&gt;" in page


def test_no_figure_is_drawn_with_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of the corruptions is drawn by another stage, with matplotlib's own settings but for these."""
    seen = []
    original_draw = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *given, **named: (
            seen.append({name: matplotlib.rcParams[name] for name in PLAIN_TEXT}),
            original_draw(figure, *given, **named),
        ),
    )
    np.save(tmp_path / "test_images.npy", np.zeros((1, 8, 8, 1), np.uint8))
    np.save(tmp_path / r"$\bad$.npy", np.zeros((1, 8, 8, 1), np.uint8))
    files.write_json(tmp_path / "meta.json", {"names": [r"$\bad$"], "severities": [1]})
    with matplotlib.rc_context({"text.parse_math": True}):
        contact_sheet(tmp_path, tmp_path, tmp_path / "out.png")
    assert seen == [PLAIN_TEXT]
    assert not any(PLAIN_TEXT.values())
