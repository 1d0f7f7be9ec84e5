"""All scores of one trained classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from normbench.evaluation import corrupted
from normbench.evaluation.registry import SCORES
from normbench.evaluation.subject import Scores, Subject
from normbench.system.schema import Strict


def measure(
    subject: Subject, settings: Mapping[str, Strict | None], report: Callable[[int, str], None]
) -> tuple[Scores, dict[str, float]]:
    """The scores on clean and corrupted images, and each one that has settings; and the seconds of each.

    Metrics have an entry `columns` with the columns of all of them. report: see `normbench.evaluation.corrupted`.
    """
    began = time.perf_counter()
    found = corrupted.measure(subject, report)
    seconds = {"corruptions": time.perf_counter() - began}
    for name, chosen in settings.items():
        if chosen is None:
            continue
        began = time.perf_counter()
        more = SCORES.get(name).measure(subject, chosen)
        found.metrics |= more.metrics
        found.columns |= more.columns
        found.predictions |= more.predictions
        seconds[name] = time.perf_counter() - began
    metrics: dict[str, Any] = found.metrics | {"columns": found.columns}
    return Scores(metrics, found.columns, found.predictions), seconds
