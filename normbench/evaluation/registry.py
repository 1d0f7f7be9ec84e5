"""The optional scores that `evaluation` in params.yaml can turn on: each is a file of this folder with its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from normbench.evaluation.subject import Scores, Subject
from normbench.system.plugins import Table, registers
from normbench.system.quantities import not_numbers, unprintable
from normbench.system.schema import Strict, first_problem


class ScoreSettings(Strict):
    """Base class for the settings of a score. Its fields are the keys allowed under the score's name in params.yaml."""

    def problems(self) -> list[tuple[str, str]]:
        """Reasons why the score cannot be measured on this machine, as pairs (key, message). By default none."""
        return []


Settings = TypeVar("Settings", bound=ScoreSettings)


@dataclass(frozen=True)
class Score:
    """A registered score.

    name: its key under `evaluation`. settings: the class of its settings. default: its settings if params.yaml does not
    mention it; None means that it is not measured then. measure: the function that measures it. results: what it stores
    among the metrics of a record; None for nothing but numbers.
    """

    name: str
    settings: type[ScoreSettings]
    default: ScoreSettings | None
    measure: Callable[[Subject, Any], Scores]
    results: type[Strict] | None = None

    def problem(self, found: Scores) -> str | None:
        """Returns why what was measured cannot be stored, or None: metrics are as declared, columns finite numbers."""
        unclean = unprintable({"metrics": found.metrics, "columns": found.columns, "missing": found.missing})
        if unclean is not None:
            return f"{unclean}: has a control character"
        bad = next((name for name, value in found.columns.items() if type(value) not in (int, float)), None)
        bad = bad if bad is not None else not_numbers(found.columns)
        if bad is not None:
            return f"column {bad}: is no finite number"
        if self.results is None:
            place = not_numbers(found.metrics)
            return None if place is None else f"{place}: is no finite number; state `results` of the score for others"
        try:
            if found.metrics:
                self.results.model_validate(found.metrics)
        except ValidationError as error:
            return first_problem(error)
        return None

    @property
    def source(self) -> tuple[Path, str]:
        """The file that defines the score's function, and the function's name."""
        return Path(inspect.getfile(self.measure)), self.measure.__name__

    @property
    def settings_source(self) -> tuple[Path, str]:
        """The file of the class of the settings, and the name of the class."""
        return Path(inspect.getfile(self.settings)), self.settings.__name__


SCORES: Table[Score] = Table("normbench.evaluation", "score")


@registers
def score(
    name: str, settings: type[Settings], default: Settings | None = None, results: type[Strict] | None = None
) -> Callable[[Callable[[Subject, Settings], Scores]], Callable[[Subject, Settings], Scores]]:
    """Decorator that registers a function `measure(subject, settings) -> Scores` as a score.

    name: its key under `evaluation` in params.yaml. settings: the class of its settings. default: its settings if
    params.yaml does not mention it, or None to leave it out in that case. `null` in params.yaml always turns it off.
    results: the class of what it stores, with a field for each entry of `Scores.metrics`; without it, metrics may hold
    nothing but finite numbers, in lists and dictionaries.
    """

    def register(measure: Callable[[Subject, Settings], Scores]) -> Callable[[Subject, Settings], Scores]:
        SCORES.add(name, measure.__module__, Score(name, settings, default, measure, results))
        return measure

    return register


def scores() -> list[Score]:
    """All scores, in the order of their files."""
    return [SCORES.entries[name] for name in SCORES.names()]
