"""Tables for a paper, in LaTeX with the package booktabs: the best, and what cannot be told from it, in bold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from normbench.results.tables.robustness import BUILT_IN
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row, cell
from normbench.system.text import clean

DASH = "--"
SYNTAX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # The sign itself has no glyph in every encoding of fonts.
    "`": r"\textasciigrave{}",
    "[": "{[}",  # After the end of a row, it would begin an argument.
    "*": "{*}",
} | {char: f"\\{char}" for char in "{}$&#%_"}


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    heading: in LaTeX. factor, form: how a number is written. measure: that of comparisons.csv by which the best are
    bold; empty if there is none. highest: whether high values are good.
    """

    name: str
    heading: str
    factor: float
    form: str
    measure: str = ""
    highest: bool = True


LEADERBOARD = (
    Column("clean_accuracy", r"Clean accuracy (\%)", 100, ".2f", "clean_accuracy"),
    Column("corruption_accuracy", r"Corruption accuracy (\%)", 100, ".2f", "corruption_accuracy"),
    Column("mce", r"mCE (\%)", 1, ".1f"),
    Column("peak_memory_mib", "Peak memory (MiB)", 1, ".1f"),
    Column("parameters", "Parameters", 1, "d"),
    Column("failed", "Failed runs", 1, "d"),
)
OF_FEATURES: dict[str, tuple[str, float, str]] = {
    "kid": (r"KID ($\times 10^3$)", 1000, ".2f"),
    "score": ("Score", 1, ".2f"),
    "precision": (r"Precision (\%)", 100, ".1f"),
    "recall": (r"Recall (\%)", 100, ".1f"),
    "density": ("Density", 1, ".2f"),
    "coverage": (r"Coverage (\%)", 100, ".1f"),
}
GAN = (
    Column("fid", "FID", 1, ".2f", "fid", highest=False),
    Column("fid_infinity", r"FID$_\infty$", 1, ".2f"),
    *(Column(f"classifier_{name}", *words) for name, words in OF_FEATURES.items()),
    Column("inception_fid", "FID (Inception)", 1, ".2f", "inception_fid", highest=False),
    Column("inception_fid_infinity", r"FID$_\infty$ (Inception)", 1, ".2f"),
    *(Column(f"inception_{name}", f"{words[0]} (Inception)", *words[1:]) for name, words in OF_FEATURES.items()),
    Column("peak_memory_mib", "Peak memory (MiB)", 1, ".1f"),
    Column("parameters", "Parameters", 1, "d"),
    Column("failed", "Failed runs", 1, "d"),
)
ROBUSTNESS = (
    Column("relative_mce", r"Relative mCE (\%)", 1, ".1f"),
    Column("ece", r"ECE (\%)", 100, ".2f"),
    Column("corrupted_ece", r"ECE, corrupted (\%)", 100, ".2f"),
    Column("nll", "NLL (nats)", 1, ".3f"),
    Column("corrupted_nll", "NLL, corrupted (nats)", 1, ".3f"),
    Column("batch_corruption_accuracy", r"Corruption accuracy, batch statistics (\%)", 100, ".2f"),
    Column("attack_fgsm", r"FGSM (\%)", 100, ".1f", "attack_fgsm"),
    Column("attack_pgd", r"PGD (\%)", 100, ".1f", "attack_pgd"),
    Column("attack_pgd_long", r"PGD, long (\%)", 100, ".1f", "attack_pgd_long"),
    Column("auto_attack", r"AutoAttack (\%)", 100, ".1f", "auto_attack"),
)
REST = {"task", "variant", "warnings", "missing", "batch_mce", *BUILT_IN, *(column.name for column in ROBUSTNESS)}


def latex(rows: list[Row], columns: Iterable[Column], standing: Standing) -> str:
    """Returns a table as a `tabular`, to be read by `\\input` in a document with the package booktabs.

    Columns that no row has a number in are left out. A mean is followed by its standard deviation if the rows have it.
    """
    shown = [column for column in columns if any(_has(row, column) for row in rows)]
    bold = {
        column.name: standing.leaders(rows, column.name, column.measure, column.highest)
        for column in shown
        if column.measure
    }
    lines = [
        "% Needs the package booktabs. Bold: the best of a task, and what is indistinguishable from it.",
        rf"\begin{{tabular}}{{ll{'r' * len(shown)}}}",
        r"\toprule",
        " & ".join(["Task", "Variant", *(column.heading for column in shown)]) + r" \\",
    ]
    task = None
    for row in rows:
        if row["task"] != task:
            lines.append(r"\midrule")
        first = latex_text(row["task"]) if row["task"] != task else ""
        task = row["task"]
        numbers = [_number(row, column, (row["task"], row["variant"]) in bold.get(column.name, ())) for column in shown]
        lines.append(" & ".join([first, latex_text(row["variant"]) + _tuned(row), *numbers]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def own_scores(names: Iterable[str]) -> list[Column]:
    """Returns the columns of robustness.csv that are of scores which are not built in, under their own names."""
    return [Column(name, latex_text(name), 1, ".4g") for name in names if name not in REST]


def latex_text(text: str) -> str:
    """Returns a text as LaTeX shows it: without commands, and without characters that act."""
    return "".join(SYNTAX.get(char, char) for char in clean(text)).replace("--", "-{-}")  # which would be a dash


def _has(row: Row, column: Column) -> bool:
    value = row.get(column.name, math.nan)
    return not math.isnan(value)


def _number(row: Row, column: Column, bold: bool) -> str:
    if not _has(row, column):
        return DASH
    value = row[column.name] if column.form == "d" else column.factor * row[column.name]
    text = cell(value, column.form).replace("-", "$-$")
    deviation = row.get(f"{column.name}_std", math.nan)
    spread = "" if math.isnan(deviation) else rf" $\pm$ {cell(column.factor * deviation, column.form)}"
    return (rf"\textbf{{{text}}}" if bold else text) + spread


def _tuned(row: Row) -> str:
    return f" (tuned, {row['tuned']} trials)" if row.get("tuned") else ""
