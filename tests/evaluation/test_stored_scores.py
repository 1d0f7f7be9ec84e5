"""What a score returns is checked before it is stored: its declared form, or nothing but finite numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normbench.data.batches import on_device
from normbench.evaluation import evaluate
from normbench.evaluation.registry import SCORES, Score, ScoreSettings
from normbench.evaluation.subject import Scores
from normbench.system.errors import UserError
from normbench.system.quantities import Accuracy
from normbench.system.schema import Strict
from tests.support.subjects import subject


class Found(Strict):
    """The entry of a score that says what it stores."""

    share: Accuracy
    why: str | None = None


class Results(Strict):
    mine: Found


def score(found: Scores, results: type[Strict] | None = None) -> Score:
    return Score("mine", ScoreSettings, None, lambda subject, settings: found, results)


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"mine": 0.5},
        {"mine": {"a": [1, 2.5, None], "b": {"c": 0}}},
    ],
)
def test_numbers_need_no_declaration(metrics: dict[str, Any]) -> None:
    found = Scores(metrics, {"mine": 0.5, "count": 3})
    assert score(found).problem(found) is None


@pytest.mark.parametrize(
    ("metrics", "columns", "line"),
    [
        ({"mine": float("nan")}, {}, "mine: is no finite number; state `results`"),
        ({"mine": {"a": [1, float("inf")]}}, {}, "mine.a.1: is no finite number; state `results`"),
        ({"mine": "a text"}, {}, "mine: is no finite number; state `results`"),
        ({"mine": True}, {}, "mine: is no finite number; state `results`"),
        ({"mine": np.float32(1)}, {}, "mine: is no finite number; state `results`"),
        ({"mine": {1: 0.5}}, {}, "mine: is no finite number; state `results`"),
        ({"mine": {"\x1b[2J": 0.5}}, {}, "metrics.mine.'\\x1b[2J': has a control character"),
        ({}, {"a": float("nan")}, "column a: is no finite number"),
        ({}, {"a": "1"}, "column a: is no finite number"),
        ({}, {"a": None}, "column a: is no finite number"),
        ({}, {"a": True}, "column a: is no finite number"),
        ({}, {"a\n": 1}, "columns.'a\\n': has a control character"),
    ],
)
def test_what_is_no_number_is_named(metrics: dict[str, Any], columns: dict[str, Any], line: str) -> None:
    found = Scores(metrics, columns)
    problem = score(found).problem(found)
    assert problem is not None
    assert problem.startswith(line)


def test_a_declaration_is_kept() -> None:
    whole = Scores({"mine": {"share": 0.5, "why": "a text"}})
    assert score(whole, Results).problem(whole) is None
    assert score(Scores(), Results).problem(Scores()) is None  # A score may have nothing to measure.
    for metrics, line in (
        ({"mine": {"share": 1.5}}, "mine.share: Input should be less than or equal to 1"),
        ({"mine": {"share": 0.5}, "other": 1}, "other: Extra inputs are not permitted"),
        ({"mine": {"share": 0.5, "why": "\x07"}}, "metrics.mine.why: has a control character"),
        ({"other": 1}, "mine: Field required"),
    ):
        found = Scores(metrics)
        assert score(found, Results).problem(found) == line


def test_every_built_in_score_declares_what_it_stores() -> None:
    for name in SCORES.names():
        results = SCORES.entries[name].results
        assert results is not None
        assert name in results.model_fields


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (Scores({"mine": "text"}), "score mine: mine: is no finite number"),
        (Scores({"calibration": 1.0}), "score mine: metrics has calibration, which another score has too"),
        (Scores({}, {"nll": 1.0}), "score mine: columns has nll, which another score has too"),
        (Scores({}, {}, {"clean": np.zeros(3, np.int16)}), "score mine: predictions has clean, which another"),
    ],
)
def test_the_evaluation_stops_in_one_line(found: Scores, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = on_device(torch.zeros(8, 4, 4, 1, dtype=torch.uint8), torch.arange(8) % 2, [0.5], [0.5], "cpu")
    given = subject(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), images)
    measured = Scores({"calibration": {}}, {"nll": 0.1}, {"clean": np.zeros(8, np.int16)})
    monkeypatch.setattr(evaluate.corrupted, "measure", lambda *_: dataclasses.replace(measured))
    with pytest.raises(UserError) as error:
        evaluate.merged(
            [evaluate.measure(given, each, lambda *_: None) for each in (None, (score(found), ScoreSettings()))]
        )
    assert str(error.value).startswith(line)
