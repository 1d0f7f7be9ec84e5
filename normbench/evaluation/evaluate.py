"""All scores of one trained classifier, measured one by one and merged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from normbench.evaluation import corrupted
from normbench.evaluation.registry import Score, ScoreSettings
from normbench.evaluation.subject import Scores, Subject
from normbench.functional.constants import unchanging
from normbench.system.errors import UserError

Chosen = tuple[Score, ScoreSettings]
ALWAYS = "corruptions"  # what is measured in any case, on clean and corrupted images


@dataclass(frozen=True)
class Part:
    """What was measured at once. name: of the score, or `ALWAYS`. seconds: that it took."""

    name: str
    found: Scores
    seconds: float


def measure(subject: Subject, chosen: Chosen | None, report: Callable[[int, str], None]) -> Part:
    """Measures a chosen score, or for None the scores on clean and corrupted images.

    report: see `normbench.evaluation.corrupted.measure`. The network's parameters need no gradient from here on. Raises
    UserError if a score returns what cannot be stored.
    """
    subject.model.requires_grad_(False)
    began = time.perf_counter()
    if chosen is None:
        with unchanging(subject.model):
            return Part(ALWAYS, corrupted.measure(subject, report), time.perf_counter() - began)
    score, settings = chosen
    with unchanging(subject.model):
        found = score.measure(subject, settings)
    problem = score.problem(found)
    if problem is not None:
        raise UserError(f"score {score.name}: {problem}")
    return Part(score.name, found, time.perf_counter() - began)


def merged(parts: Iterable[Part]) -> tuple[Scores, dict[str, float]]:
    """Returns all scores of a classifier as one, and the seconds that each took.

    The metrics have an additional entry `columns` with the columns of all scores and, where a network cannot have some,
    `missing` with the reasons. parts: in the order of the scores. Raises UserError if two have results of one name.
    """
    found, seconds = Scores(), {}
    for part in parts:
        more = part.found
        problem = clash(found, more)
        if problem is not None:
            raise UserError(f"score {part.name}: {problem}")
        found.metrics |= more.metrics
        found.columns |= more.columns
        found.predictions |= more.predictions
        found.missing |= more.missing
        seconds[part.name] = part.seconds
    metrics: dict[str, Any] = found.metrics | {"columns": found.columns}
    if found.missing:
        metrics["missing"] = found.missing
    return Scores(metrics, found.columns, found.predictions), seconds


def clash(found: Scores, more: Scores) -> str | None:
    """Returns a name that two scores give to their results, with what it names; None if there is none."""
    for part in ("metrics", "columns", "predictions"):
        common = sorted(getattr(found, part).keys() & getattr(more, part).keys())
        if common:
            return f"{part} has {common[0]}, which another score has too"
    return None
