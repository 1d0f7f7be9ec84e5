"""The tables in LaTeX: what is in bold, how names are escaped, and that every row has its cells."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from normbench.results.tables.latex import GAN, LEADERBOARD, ROBUSTNESS, latex, latex_text, own_scores
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row
from tests.results.test_standing import comparison

BAD = "\\input{x}_$%&#~^{}<>|\"'`--[*\x1b\u202e"


def row(variant: str, clean: float, task: str = "t", **others: Any) -> Row:
    found: Row = {"task": task, "variant": variant, "tuned": 0, "clean_accuracy": clean, "clean_accuracy_std": 0.0123}
    found |= {"corruption_accuracy": math.nan, "corruption_accuracy_std": math.nan, "mce": 100.0, "failed": 1}
    return found | {"peak_memory_mib": 3.14159, "parameters": 1234} | others


ROWS = [row("best", 0.98), row("close", 0.97), row("far", 0.5, mce=math.nan), row("best", 0.9, task="u")]
PAIRS = [
    comparison("best", "close", "indistinguishable"),
    comparison("best", "far", "better"),
    comparison("close", "far", "better"),
]


def cells(text: str) -> list[list[str]]:
    """The cells of the rows between the rules. An `&` that is a character has a backslash before it."""
    inside = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
    lines = [line for line in inside.splitlines() if line != "\\midrule"]
    assert all(line.endswith(" \\\\") for line in lines)
    return [re.split(r"(?<!\\) ?& ?", line.removesuffix(" \\\\")) for line in lines]


def test_the_best_and_what_cannot_be_told_from_it_are_bold() -> None:
    head, *rows = cells(latex(ROWS, LEADERBOARD, Standing(PAIRS)))
    assert head == [
        *("Task", "Variant", r"Clean accuracy (\%)", r"mCE (\%)"),
        *("Peak memory (MiB)", "Parameters", "Failed runs"),
    ]
    assert rows == [
        ["t", "best", r"\textbf{98.00} $\pm$ 1.23", "100.0", "3.1", "1234", "1"],
        ["", "close", r"\textbf{97.00} $\pm$ 1.23", "100.0", "3.1", "1234", "1"],
        ["", "far", r"50.00 $\pm$ 1.23", "--", "3.1", "1234", "1"],
        ["u", "best", r"90.00 $\pm$ 1.23", "100.0", "3.1", "1234", "1"],
    ]


def test_of_fid_the_lowest_is_bold() -> None:
    rows: list[Row] = [
        {"task": "g", "variant": name, "fid": fid, "fid_std": math.nan, "failed": 0}
        for name, fid in (("a", 3.0), ("b", 9.0))
    ]
    text = latex(rows, GAN, Standing([comparison("a", "b", "better", "fid", "g")]))
    assert cells(text)[1:] == [["g", "a", r"\textbf{3.00}", "0"], ["", "b", "9.00", "0"]]


def test_own_scores_are_the_last_columns_of_robustness() -> None:
    rows: list[Row] = [{"task": "t", "variant": "a", "ece": 0.0314, "nll": math.nan, "my_score": -0.25, "warnings": 0}]
    own = own_scores(["task", "variant", "ece", "nll", "attack_examples", "my_score", "warnings", "missing"])
    assert cells(latex(rows, [*ROBUSTNESS, *own], Standing([]))) == [
        ["Task", "Variant", r"ECE (\%)", r"my\_score"],
        ["t", "a", "3.14", "$-$0.25"],
    ]


def test_a_tuned_variant_says_so() -> None:
    text = latex([row("a", 0.9, tuned=20)], LEADERBOARD, Standing([]))
    assert cells(text)[1][1] == "a (tuned, 20 trials)"


def test_names_are_no_commands() -> None:
    text = latex_text(BAD)
    left = re.sub(r"\\[a-z]+\{\}|\\[{}$&#%_]|\{[-\[*]\}", "", text)
    assert left == "inputx'''-x1bu202e"
    assert latex_text("a-b---c") == "a-b-{-}-c"
    assert text.startswith(r"\textbackslash{}input\{x\}\_")
    whole = latex([row(BAD, 0.9, task=BAD)], LEADERBOARD, Standing([]))
    assert {len(line) for line in cells(whole)} == {7}
    assert whole.isascii()


def test_it_is_one_tabular_with_the_rules_of_booktabs() -> None:
    text = latex(ROWS, LEADERBOARD, Standing(PAIRS))
    assert re.findall(r"\\(?:begin|end)\{tabular\}|\\(?:top|mid|bottom)rule", text) == [
        *(r"\begin{tabular}", r"\toprule", r"\midrule", r"\midrule", r"\bottomrule", r"\end{tabular}"),
    ]
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert {len(line) for line in cells(text)} == {len(columns)}
    assert text.count("{") == text.count("}")
    empty = latex([], LEADERBOARD, Standing([]))
    assert cells(empty) == [["Task", "Variant"]]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(tmp_path: Path) -> None:
    table = latex([*ROWS, row(BAD, 0.9, task=BAD)], LEADERBOARD, Standing(PAIRS))
    (tmp_path / "table.tex").write_text(table)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
