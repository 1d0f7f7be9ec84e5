"""All scores of one trained classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from normbench.evaluation import corrupted
from normbench.evaluation.registry import Score, ScoreSettings
from normbench.evaluation.subject import Scores, Subject

Chosen = tuple[Score, ScoreSettings]


def measure(
    subject: Subject, chosen: Iterable[Chosen], report: Callable[[int, str], None]
) -> tuple[Scores, dict[str, float]]:
    """Measures the scores on clean and corrupted images and the chosen scores.

    Returns all of them merged into one, and the seconds that each took. The metrics have an additional entry `columns`
    with the columns of all scores and, where a network cannot have some, `missing` with the reasons. report: see
    `normbench.evaluation.corrupted.measure`.
    """
    began = time.perf_counter()
    found = corrupted.measure(subject, report)
    seconds = {"corruptions": time.perf_counter() - began}
    for score, settings in chosen:
        began = time.perf_counter()
        more = score.measure(subject, settings)
        found.metrics |= more.metrics
        found.columns |= more.columns
        found.predictions |= more.predictions
        found.missing |= more.missing
        seconds[score.name] = time.perf_counter() - began
    metrics: dict[str, Any] = found.metrics | {"columns": found.columns}
    if found.missing:
        metrics["missing"] = found.missing
    return Scores(metrics, found.columns, found.predictions), seconds
