"""gan.md: the scores of made-up records with their spreads, verdicts, and the runs that failed."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from normbench.results.tables import aggregate
from normbench.results.tables.gan import GAN
from normbench.results.tables.gan_markdown import gan_markdown
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row
from tests.results.made_up_suite import GAN_TASK, SEEDS, edit_metrics, place, rows, write_suite
from tests.results.test_markdown import cells
from tests.results.test_standing import comparison

DASH = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def text_of() -> str:
    return Path("results/gan.md").read_text(encoding="utf-8")


def table_of(text: str) -> list[dict[str, str]]:
    head, *lines = cells(text)
    return [dict(zip(head, line, strict=True)) for line in lines]


def a_row(variant: str, **others: Any) -> Row:
    row: Row = dict.fromkeys(GAN, 0) | {"task": "t", "variant": variant, "method": variant, "why": {}}
    row |= {"fid": 12.345, "fid_std": 1.0, "fid_verdict": "", "peak_memory_mib": 2.12, "parameters": 41201}
    return row | {"runs": 3, "finished": 3} | others


def test_every_score_of_the_records_is_there_with_its_spread(suite: None) -> None:
    scores = {
        "fid_infinity": [30.5, 31.5, 33.0],
        "classifier_kid": [0.001, 0.002, 0.006],
        "classifier_score": [8.0, 8.5, 8.75],
        "classifier_precision": [0.7, 0.8, 0.75],
        "classifier_recall": [0.4, 0.5, 0.45],
        "classifier_density": [0.9, 1.1, 1.2],
        "classifier_coverage": [0.6, 0.7, 0.85],
        "inception_fid": [50.0, 51.0, 55.0],
        "inception_kid": [0.05, 0.06, 0.08],
    }
    for seed in SEEDS:
        own = {"columns": {name: values[seed] for name, values in scores.items()}}
        edit_metrics(place("spectral_norm_alone", seed, "gan"), lambda metrics, own=own: metrics.update(own))
    aggregate()
    first, second = table_of(text_of())
    heads = {
        "fid_infinity": ("FID\N{INFINITY}", 1, 2),
        "classifier_kid": ("KID (\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT THREE})", 1000, 2),
        "classifier_score": ("score", 1, 2),
        "classifier_precision": ("precision (%)", 100, 1),
        "classifier_recall": ("recall (%)", 100, 1),
        "classifier_density": ("density", 1, 2),
        "classifier_coverage": ("coverage (%)", 100, 1),
        "inception_fid": ("FID (Inception)", 1, 2),
        "inception_kid": ("KID (Inception, \N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT THREE})", 1000, 2),
    }
    assert first["variant"] == "spectral_norm_alone"
    assert first["FID"] == f"35.25 {PLUS_MINUS} 1.00"
    for name, (head, factor, digits) in heads.items():
        mean, deviation = (factor * of(scores[name]) for of in (statistics.mean, statistics.stdev))
        assert first[head] == f"{mean:.{digits}f} {PLUS_MINUS} {deviation:.{digits}f}"
        assert second[head] == f"{DASH} (a)"
    assert "(a) no finished run was scored with it" in text_of()
    assert "Inception, precision" not in text_of()
    assert (first["peak memory (MiB)"], first["parameters"]) == ("90.0", "411905")


def test_runs_that_diverged_and_collapsed_are_counted_apart_and_named(suite: None) -> None:
    edit_metrics(place("batch_norm", 2, "gan"), lambda metrics: metrics.update(collapsed={"step": 20}))
    aggregate()
    first, second = table_of(text_of())
    ends = ("finished runs", "diverged runs", "collapsed runs")
    assert [first[name] for name in ends] == ["3/3", "0", "0"]
    assert [second[name] for name in ends] == ["1/3", "1", "1"]
    said = text_of().partition("Runs that failed:")[2]
    assert f"- {GAN_TASK}, batch_norm, seed 0 diverged: at iteration 13 a loss or a weight was not finite" in said
    assert f"- {GAN_TASK}, batch_norm, seed 2 collapsed: from iteration 20 on the diversity of its samples" in said
    assert said.count("\n- ") == 2


def test_no_time_is_in_it(suite: None) -> None:
    aggregate()
    text = text_of()
    assert not any(
        row[name] in text for row in rows("results/costs.csv") for name in ("images_per_second",) if row[name]
    )
    assert "/s" not in text


def test_a_row_has_verdicts_against_the_baseline() -> None:
    given = [a_row("a", fid=3.0, fid_verdict="better"), a_row("b", fid_verdict="indistinguishable"), a_row("base")]
    standing = Standing(
        [
            comparison("base", "a", "worse", "fid"),
            comparison("base", "b", "indistinguishable", "fid"),
            comparison("a", "b", "better", "fid"),
        ]
    )
    text = gan_markdown(given, "base", standing, {})
    first, second, third = table_of(text)
    assert (first["FID"], first["against baseline"]) == (f"**3.00** {PLUS_MINUS} 1.00", "better")
    assert (second["FID"], second["against baseline"]) == (f"12.35 {PLUS_MINUS} 1.00", "indistinguishable (0.02)")
    assert third["against baseline"] == "baseline"
    assert "Verdicts compare the FIDs of runs with those of `base` by seeds" in text
    assert "Runs that failed" not in text


def test_a_cell_without_a_number_has_a_mark() -> None:
    empty = {"fid": float("nan"), "fid_std": float("nan")}
    text = gan_markdown([a_row("a", **empty, why={"fid": "all 3 runs diverged"})], None, Standing([]), {})
    assert table_of(text)[0]["FID"] == f"{DASH} (a)"
    assert text.endswith("\n(a) all 3 runs diverged  \n")


@pytest.mark.parametrize("why", ["x | y", "`code` <b>"])
def test_names_and_reasons_do_not_act(why: str) -> None:
    text = gan_markdown([a_row("a|b")], None, Standing([]), {("t*", "a|b"): {0: why}})
    (row,) = [line for line in text.splitlines() if line.startswith("| t |")]
    assert len(re.split(r"(?<!\\)\|", row)) == 2 + len(cells(gan_markdown([a_row("a")], None, Standing([]), {}))[0])
    for sign in "|`<*":
        assert text.replace("\\" + sign, "").partition("Runs that failed")[2].count(sign) == 0


def test_a_suite_without_gans_says_so(suite: None) -> None:
    write_suite(gan_tasks=[], gan_variants=[])
    aggregate()
    assert "The suite has no GAN task." in text_of()
