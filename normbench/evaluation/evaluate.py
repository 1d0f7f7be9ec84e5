"""All scores of one trained classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from normbench.evaluation import corrupted
from normbench.evaluation.registry import Score, ScoreSettings
from normbench.evaluation.subject import Scores, Subject
from normbench.functional.constants import unchanging
from normbench.system.errors import UserError

Chosen = tuple[Score, ScoreSettings]


def measure(
    subject: Subject, chosen: Iterable[Chosen], report: Callable[[int, str], None]
) -> tuple[Scores, dict[str, float]]:
    """Measures the scores on clean and corrupted images and the chosen scores.

    Returns all of them merged into one, and the seconds that each took. The metrics have an additional entry `columns`
    with the columns of all scores and, where a network cannot have some, `missing` with the reasons. report: see
    `normbench.evaluation.corrupted.measure`. The network's parameters need no gradient from here on. Raises UserError
    if a score returns what cannot be stored.
    """
    subject.model.requires_grad_(False)
    began = time.perf_counter()
    with unchanging(subject.model):
        found = corrupted.measure(subject, report)
        seconds = {"corruptions": time.perf_counter() - began}
        for score, settings in chosen:
            began = time.perf_counter()
            add(found, score, score.measure(subject, settings))
            seconds[score.name] = time.perf_counter() - began
    metrics: dict[str, Any] = found.metrics | {"columns": found.columns}
    if found.missing:
        metrics["missing"] = found.missing
    return Scores(metrics, found.columns, found.predictions), seconds


def add(found: Scores, score: Score, more: Scores) -> None:
    """Adds the results of a score to those of the others. Raises UserError if they cannot be stored."""
    problem = score.problem(more) or clash(found, more)
    if problem is not None:
        raise UserError(f"score {score.name}: {problem}")
    found.metrics |= more.metrics
    found.columns |= more.columns
    found.predictions |= more.predictions
    found.missing |= more.missing


def clash(found: Scores, more: Scores) -> str | None:
    """Returns a name that two scores give to their results, with what it names; None if there is none."""
    for part in ("metrics", "columns", "predictions"):
        common = sorted(getattr(found, part).keys() & getattr(more, part).keys())
        if common:
            return f"{part} has {common[0]}, which another score has too"
    return None
