"""Tuned variants are marked, and compared with each other; the page says by what they were tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normbench.results.report import report
from normbench.results.tables import aggregate
from tests.results.made_up_suite import SEEDS, TASK, VARIANTS, edit, place, rows

STUDY = "abcdef0123456789"


def tune(variant: str, trials: int, lr: float, options: dict[str, Any] | None = None) -> None:
    """Changes the records of a variant to those of runs with tuned values."""
    chosen = {"lr": lr, "weight_decay": 0.0025, "options": options or {}, "study": STUDY, "trials": trials}
    for seed in SEEDS:
        changes = {"task": {"recipe": {"lr": lr}}, "variant": {"tuned": {TASK: chosen}, "options": options or {}}}
        edit(place(variant, seed), provenance=changes)


def test_marks(suite: None) -> None:
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
    page = Path("results/report.html").read_text(encoding="utf-8")
    board = page.split("<tbody>")[1].split("</tbody>")[0]
    lines = [line for line in board.split("<tr") if '<span class="tag">tuned</span>' in line]
    assert {name for name in VARIANTS if any(f'data-name="{name}"' in line for line in lines)} == tuned
    assert len(lines) == len(tuned)
    assert f"tuned for {TASK} by 20 trials of study {STUDY}: lr 0.0654, weight_decay 0.0025, eps 0.5" in page
    recipe = page.split('class="recipe">')[1].split("</p>")[0]  # that of those that are not tuned
    assert "lr " not in recipe


def test_nothing_is_said_without_tuned_variants(folder: Path, page: str) -> None:
    assert {row["tuned"] for row in rows(f"{folder}/results/leaderboard.csv")} == {"0"}
    assert "tuned" not in (folder / "results/leaderboard.md").read_text().lower()
    assert "Tuned:" not in page
