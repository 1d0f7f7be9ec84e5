"""How variants stand to each other, from made-up comparisons."""

from __future__ import annotations

import itertools
import math

import pytest

from normbench.comparison.verdicts import Verdict
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row


def comparison(variant: str, other: str, verdict: str, measure: str = "clean_accuracy", task: str = "t") -> Row:
    return {
        "task": task,
        "measure": measure,
        "variant": variant,
        "other": other,
        "verdict": verdict,
        "smallest_effect": 0.02 if verdict else math.nan,
    }


def test_a_pair_stands_for_both_directions() -> None:
    standing = Standing([comparison("a", "b", "better"), comparison("a", "c", "indistinguishable")])
    assert standing.of("t", "clean_accuracy", "a", "b") is Verdict.BETTER
    assert standing.of("t", "clean_accuracy", "b", "a") is Verdict.WORSE
    assert standing.of("t", "clean_accuracy", "c", "a") is Verdict.INDISTINGUISHABLE
    assert standing.of("t", "clean_accuracy", "b", "c") is None
    assert standing.of("t", "fid", "a", "b") is None
    assert standing.of("u", "clean_accuracy", "a", "b") is None
    assert standing.smallest_effect("t", "clean_accuracy", "c", "a") == 0.02
    assert math.isnan(standing.smallest_effect("t", "clean_accuracy", "b", "c"))


def test_an_empty_verdict_is_none() -> None:
    standing = Standing([comparison("a", "b", "")])
    assert standing.of("t", "clean_accuracy", "b", "a") is None


ROWS: list[Row] = [
    {"task": "t", "variant": name, "tuned": 0, "score": score}
    for name, score in {"a": 0.9, "b": 0.95, "c": 0.94, "d": math.nan}.items()
]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_leaders_are_the_best_and_what_cannot_be_told_from_it(order: tuple[str, ...]) -> None:
    truth = {frozenset("ab"): "better", frozenset("bc"): "indistinguishable", frozenset("ac"): "indistinguishable"}
    pairs = []
    for first, second in itertools.combinations(order, 2):
        verdict = Verdict(truth[frozenset((first, second))])
        pairs.append(comparison(first, second, verdict.reversed() if first == "a" else verdict))
    rows = sorted(ROWS[:3], key=lambda row: order.index(row["variant"])) + ROWS[3:]
    assert Standing(pairs).leaders(rows, "score", "clean_accuracy") == {("t", "b"), ("t", "c")}


def test_of_low_values_the_lowest_leads() -> None:
    pairs = [comparison("a", "b", "better", "fid"), comparison("a", "c", "better", "fid")]
    assert Standing(pairs).leaders(ROWS, "score", "fid", highest=False) == {("t", "a")}


def test_without_verdicts_there_is_no_leader() -> None:
    assert Standing([]).leaders(ROWS, "score", "clean_accuracy") == set()
    pairs = [comparison(a, b, "") for a, b in itertools.combinations("abc", 2)]
    assert Standing(pairs).leaders(ROWS, "score", "clean_accuracy") == set()


def test_tuned_variants_and_tasks_have_leaders_of_their_own() -> None:
    rows = [row | {"task": task, "tuned": 20 * (row["variant"] == "a")} for task in "tu" for row in ROWS]
    rows.append({"task": "t", "variant": "e", "tuned": 20, "score": 0.5})
    pairs = [comparison("a", "e", "better"), comparison("b", "c", "better"), comparison("b", "c", "worse", task="u")]
    pairs[-1] |= {"variant": "c", "other": "b", "verdict": "indistinguishable"}
    leaders = Standing(pairs).leaders(rows, "score", "clean_accuracy")
    assert leaders == {("t", "a"), ("t", "b"), ("u", "b"), ("u", "c")}
