"""The scores that `evaluation` in params.yaml may ask for: each is one file of this folder, with its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from normbench.evaluation.subject import Scores, Subject
from normbench.system.plugins import Table, registers
from normbench.system.schema import Strict


class ScoreSettings(Strict):
    """What params.yaml may set of a score; its fields are the keys under the score's name."""

    def problems(self) -> list[tuple[str, str]]:
        """What keeps the score from being measured here, as pairs of a key and a message; nothing by default."""
        return []


Settings = TypeVar("Settings", bound=ScoreSettings)


@dataclass(frozen=True)
class Score:
    """A score: its key under `evaluation`, the schema of its settings, those it has where params.yaml does not name it
    (None: it is not measured then), and the function that measures it."""

    name: str
    settings: type[ScoreSettings]
    default: ScoreSettings | None
    measure: Callable[[Subject, Any], Scores]

    @property
    def source(self) -> tuple[Path, str]:
        """The file of the function and the function's name in it: the code behind the score."""
        return Path(inspect.getfile(self.measure)), self.measure.__name__


SCORES: Table[Score] = Table("normbench.evaluation", "score")


@registers
def score(
    name: str, settings: type[Settings], default: Settings | None = None
) -> Callable[[Callable[[Subject, Settings], Scores]], Callable[[Subject, Settings], Scores]]:
    """Registers `measure(subject, settings) -> Scores` as the score of that key under `evaluation`.

    default: its settings where params.yaml does not name it; None leaves it out then, as `null` there always does.
    """

    def register(measure: Callable[[Subject, Settings], Scores]) -> Callable[[Subject, Settings], Scores]:
        SCORES.add(name, measure.__module__, Score(name, settings, default, measure))
        return measure

    return register


def scores() -> list[Score]:
    """All scores, in the order of their files."""
    return [SCORES.entries[name] for name in SCORES.names()]
