"""Suites with nothing of one kind."""

from __future__ import annotations

from pathlib import Path

from normbench.results.report import report
from normbench.results.tables import GAN, LEADERBOARD, aggregate
from normbench.results.tables.curves import CURVES
from tests.results.made_up_suite import place, rows, write_suite


def test_only_what_the_suite_names_is_read(suite: None) -> None:
    write_suite(variants=["group_norm", "batch_norm"], gan_tasks=[], gan_variants=[])
    place("conv_norm", 0).write_text("not JSON", encoding="utf-8")
    aggregate()
    assert {row["variant"] for row in rows("results/leaderboard.csv")} == {"group_norm", "batch_norm"}
    assert Path("results/gan.csv").read_text(encoding="utf-8") == ",".join(GAN) + "\n"


def test_tables_without_classification_have_their_header(suite: None) -> None:
    write_suite(tasks=[], variants=[], baseline=None)
    aggregate()
    for name, columns in (("leaderboard", LEADERBOARD), ("curves", CURVES)):
        assert Path(f"results/{name}.csv").read_text(encoding="utf-8") == ",".join(columns) + "\n"
    header = "task,variant,corruption,severity_1,severity_2,severity_3,severity_4,severity_5,mean,missing\n"
    assert Path("results/corruptions.csv").read_text(encoding="utf-8") == header
    assert Path("results/robustness.csv").read_text() == "task,variant,relative_mce,batch_mce,warnings,missing\n"
    assert Path("results/leaderboard.md").read_text(encoding="utf-8").count("\n|") == 2
    report()
    assert "mCE" not in Path("results/report.html").read_text(encoding="utf-8")
