"""The scores that a call names, and their measurement with progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from normbench.evaluation import registry
from normbench.evaluation.evaluate import ALWAYS, Chosen, measure, merged
from normbench.evaluation.registry import Score, ScoreSettings
from normbench.evaluation.subject import Scores, Subject
from normbench.suite.document import dotted
from normbench.system.errors import UserError, hint
from normbench.system.mistakes import mistakes
from normbench.system.progress import Progress


def names() -> list[str]:
    """The names of all scores that have settings."""
    return [score.name for score in registry.scores()]


def chosen(scores: Any) -> list[Chosen]:
    """The scores that are named, with their settings, in the order of their files.

    scores: names, or settings by name: `{"attacks": {"examples": 100}}`; what they leave out has the defaults of
    `evaluation` in params.yaml. Raises UserError, with one line for each, for what is not valid.
    """
    if isinstance(scores, str) or not isinstance(scores, Iterable):
        raise UserError(f"scores = {scores!r}: a list of names is needed, or settings by name")
    asked = scores if isinstance(scores, Mapping) else dict.fromkeys(scores)
    unknown = [name for name in asked if name not in names()]
    if unknown:
        raise UserError(*(f"scores: {name!r}: unknown score; {hint(name, names())}" for name in unknown))
    return [(score, _settings(score, asked[score.name])) for score in registry.scores() if score.name in asked]


def measured(subject: Subject, scores: Sequence[Chosen | None], title: str) -> tuple[Scores, dict[str, float]]:
    """All scores of a network as one, and the seconds that each took (see `normbench.evaluation.evaluate.merged`).

    scores: None stands for those on clean and corrupted images. title: of the progress.
    """
    parts = []
    for each in scores:
        name = ALWAYS if each is None else each[0].name
        with Progress(f"{title}: {name}", len(subject.corrupted.names)) as progress:
            part = measure(subject, each, progress.update)
            parts.append(part)
            if each is None:
                progress.close(f"accuracy {np.mean(list(part.found.metrics['corruption_accuracy'].values())):.4f}")
            else:
                progress.close("measured")
    return merged(parts)


def _settings(score: Score, given: Any) -> ScoreSettings:
    values = {} if given is None else dict(given) if isinstance(given, Mapping) else given
    try:
        settings = score.settings.model_validate(values)
    except ValidationError as error:
        found = mistakes(error, score.settings, values, f"score {score.name}")
        lines = [f"scores: {dotted((score.name, *keys))}: {text}" for keys, text in found.items()]
        raise UserError(*lines) from None
    problems = settings.problems()
    if problems:
        raise UserError(*(f"scores: {score.name}.{key}: {text}" for key, text in problems))
    return settings
