"""Tuned variants are marked, and compared with each other; the page says by what they were tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from normbench.results.best import clear_best, clear_bests
from normbench.results.report import report
from normbench.results.tables import aggregate
from tests.results.made_up_suite import SEEDS, TASK, VARIANTS, edit, place, rows
from tests.results.page import Page

STUDY = "abcdef0123456789"


def tune(variant: str, trials: int, lr: float, options: dict[str, Any] | None = None) -> None:
    """Changes the records of a variant to those of runs with tuned values."""
    chosen = {"lr": lr, "weight_decay": 0.0025, "options": options or {}, "study": STUDY, "trials": trials}
    for seed in SEEDS:
        changes = {"task": {"recipe": {"lr": lr}}, "variant": {"tuned": {TASK: chosen}, "options": options or {}}}
        edit(place(variant, seed), provenance=changes)


def test_marks_and_bests(suite: None) -> None:
    tune("network_deconvolution", 20, 0.0321)
    tune("conv_norm", 20, 0.0654, {"eps": 0.5})
    tune("batch_norm", 20, 0.0987)
    aggregate()
    report()
    tuned = {"network_deconvolution", "conv_norm", "batch_norm"}
    assert {row["variant"]: row["tuned"] for row in rows("results/leaderboard.csv")} == {
        variant: "20" if variant in tuned else "0" for variant in VARIANTS
    }
    text = Path("results/leaderboard.md").read_text()
    assert text.count("(tuned, 20 trials)") == 3
    assert "| network_deconvolution (tuned, 20 trials) |" in text
    assert "compare such rows with each other" in text
    page = Path("results/report.html").read_text()
    shown = Page(page)
    assert [row[0].strip() for row in shown.rows if row[0].strip().endswith("tuned")] == [
        "network_deconvolutiontuned",
        "batch_normbaselinetuned",
        "conv_normtuned",
    ]
    # The best of those that are tuned in both columns, and of the others.
    marked = [name.strip() for name in shown.marked]
    assert marked.count("network_deconvolutiontuned") == 2
    assert "fantastic_four" in marked
    assert f"tuned for {TASK} by 20 trials of study {STUDY}: lr 0.0654, weight_decay 0.0025, eps 0.5" in page
    assert "lr 0.1," in page.split('class="recipe">')[1].split("</p>")[0]  # the recipe of those that are not tuned


def test_nothing_is_said_without_tuned_variants(folder: Path, page: str) -> None:
    assert {row["tuned"] for row in rows(f"{folder}/results/leaderboard.csv")} == {"0"}
    assert "tuned" not in (folder / "results/leaderboard.md").read_text().lower()
    assert "Tuned:" not in page


def row(variant: str, value: float, tuned: int) -> dict[str, Any]:
    return {"variant": variant, "x": value, "x_std": 0.01, "tuned": tuned}


@pytest.mark.parametrize(
    ("third", "expected"), [(0, ["b", "c"]), (20, ["b"]), (50, ["b"])], ids=["plain", "tuned", "tuned by more"]
)
def test_the_best_of_each_kind(third: int, expected: list[str]) -> None:
    """Of rows that are tuned by as many trials, or not; a kind with one row has no best."""
    listed = [row("a", 0.9, 20), row("b", 0.99, 20), row("c", 0.8, third), row("d", 0.5, 0)]
    assert clear_bests(listed, "x", True) == expected
    assert clear_best(listed, "x", True) == "b"
