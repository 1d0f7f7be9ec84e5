"""leaderboard.md of made-up rows: verdicts, failures, and what the test images can show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from normbench.results.tables import aggregate
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.markdown import markdown
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row
from normbench.suite.suite import Suite
from tests.results.made_up_suite import rows
from tests.results.test_standing import comparison

CORRUPTIONS = Corruptions(names=["fog", "spatter"], severities=[1])


def a_suite(baseline: str | None = "base") -> Suite:
    given: dict[str, Any] = {"seeds": [0, 1, 2], "datasets": ["digits"], "tasks": ["t"], "variants": ["base", "a", "b"]}
    return Suite.model_validate(given | {"baseline": baseline, "gan_tasks": [], "gan_variants": []})


def a_row(variant: str, **others: Any) -> Row:
    row: Row = {"task": "t", "variant": variant, "method": variant, "tuned": 0, "why": {}}
    row |= {"clean_accuracy": 0.98236, "clean_accuracy_std": 0.01055, "clean_verdict": ""}
    row |= {"corruption_accuracy": 0.84606, "corruption_accuracy_std": 0.00808, "corruption_verdict": ""}
    row |= {"mce": 100.04, "peak_memory_mib": 3.11, "parameters": 19810}
    return row | {"runs": 3, "finished": 3, "failed": 0, "diverged": 0, "collapsed": 0} | others


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in found}) == 1
    return [found[0], *found[2:]]


def test_a_row_has_verdicts_against_the_baseline() -> None:
    rows = [a_row("a", clean_verdict="better", corruption_verdict="indistinguishable"), a_row("base"), a_row("b")]
    standing = Standing(
        [comparison("base", "a", "worse"), comparison("base", "a", "indistinguishable", "corruption_accuracy")]
    )
    text = markdown(rows, a_suite(), CORRUPTIONS, standing, {"t": 359})
    head, first, second, third = cells(text)
    assert head == [
        *("task", "variant", "clean accuracy (%)", "against baseline", "corruption accuracy (%)", "against baseline"),
        *("mCE (%)", "peak memory (MiB)", "parameters", "finished runs", "failed runs"),
    ]
    assert first == [
        *("t", "a", "**98.24** ± 1.05", "better", "**84.61** ± 0.81", "indistinguishable (2.00)"),
        *("100.0", "3.1", "19810", "3/3", "0"),
    ]
    assert second[2] == "98.24 ± 1.05"
    assert second[3] == second[5] == "baseline"
    assert third[3] == third[5] == "\N{EN DASH}"
    assert "mCE is relative to `base`, over 1 of the 15 main corruptions." in text
    assert "t has 359 test images, so one image of one run is 0.28 points." in text
    assert "Verdicts compare the runs with those of `base`" in text
    assert "In brackets: the smallest difference, in points, that this many seeds and images would have shown" in text


@pytest.mark.parametrize(
    ("images", "points"), [(10_000, "0.01"), (360, "0.28"), (50_000, "0.002"), (1, "100"), (8, "12")]
)
def test_what_one_image_is_worth(images: int, points: str) -> None:
    text = markdown([a_row("a")], a_suite(), CORRUPTIONS, Standing([]), {"t": images, "u": 1000})
    worth = f"t has {images} test images, so one image of one run is {points} points"
    assert f"{worth}; u has 1000 test images, so one image of one run is 0.1 points." in text


def test_without_verdicts_it_says_what_they_need() -> None:
    text = markdown([a_row("a"), a_row("base")], a_suite(), CORRUPTIONS, Standing([]), {"t": 359})
    assert "There are no verdicts: one needs at least 3 seeds" in text
    assert "better" not in text


def test_without_a_baseline_nothing_is_relative_to_it() -> None:
    text = markdown(
        [a_row("a", mce=math.nan, why={"mce": "no baseline"})], a_suite(None), CORRUPTIONS, Standing([]), {}
    )
    assert "relative" not in text
    assert "verdict" not in text
    assert cells(text)[1][6] == "\N{EN DASH} (a)"
    assert "\n(a) no baseline" in text


@pytest.mark.parametrize(
    ("diverged", "collapsed", "shown"),
    [(0, 0, "0"), (2, 0, "2 diverged"), (0, 1, "1 collapsed"), (1, 2, "1 diverged, 2 collapsed")],
)
def test_failures_are_counted_by_their_kind(diverged: int, collapsed: int, shown: str) -> None:
    failed = diverged + collapsed
    row = a_row("a", diverged=diverged, collapsed=collapsed, failed=failed, finished=3 - failed)
    assert cells(markdown([row], a_suite(), CORRUPTIONS, Standing([]), {}))[1][-2:] == [f"{3 - failed}/3", shown]


def test_times_are_in_no_committed_table() -> None:
    text = markdown([a_row("a", images_per_second=5000.0, seconds=3.0)], a_suite(), CORRUPTIONS, Standing([]), {})
    assert "5000" not in text
    assert "second" not in text
    assert "images/s" not in text


def test_a_name_is_no_markdown() -> None:
    text = markdown([a_row("a|b", task="<t>")], a_suite(), CORRUPTIONS, Standing([]), {"<t>": 10})
    assert r"| \<t\> | a\|b |" in text
    assert r"\<t\> has 10 test images" in text


def test_it_says_what_the_csv_says(suite: None) -> None:
    aggregate()
    text = Path("results/leaderboard.md").read_text(encoding="utf-8")
    assert "relative to `batch_norm`, over 15 of the 15 main corruptions" in text
    assert "digits-resnet8 has 360 test images, so one image of one run is 0.28 points." in text
    shown = cells(text)[1:]
    for line, row in zip(shown, rows("results/leaderboard.csv"), strict=True):
        assert line[:2] == [row["task"], row["variant"]]
        if row["clean_accuracy"]:
            mean, deviation = line[2].replace("**", "").split(" ± ")
            assert float(mean) == pytest.approx(100 * float(row["clean_accuracy"]), abs=0.006)
            assert float(deviation) == pytest.approx(100 * float(row["clean_accuracy_std"]), abs=0.006)
            assert float(line[6]) == pytest.approx(float(row["mce"]), abs=0.06)
        if row["variant"] != "batch_norm":
            verdicts = [line[place].partition(" (")[0].replace("\N{EN DASH}", "") for place in (3, 5)]
            assert verdicts == [row["clean_verdict"], row["corruption_verdict"]]
        assert int(line[8]) == int(row["parameters"])
    found = {line[1]: line for line in shown}
    assert [found["spectral_norm"][place] for place in (2, 4, 6)] == ["\N{EN DASH} (a)"] * 3
    assert "(a) all 3 runs diverged" in text
    ends = [found[variant][-2:] for variant in ("spectral_norm", "no_norm", "conv_norm")]
    assert ends == [["0/3", "3 diverged"], ["2/3", "1 diverged"], ["3/3", "0"]]
