"""What the training of a run hands over to be stored, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.runs.record import Numerics


@dataclass
class Trained:
    """A trained run in memory.

    summary: how it ended, for the line of its progress that stays. diverged, metrics, images_per_second, parameters,
    epoch_seconds, resumed: as in `normbench.runs.record`. seconds: by phase. write: puts its files into a folder.
    step_memory: measures the peak bytes of a training step, which moves the weights, so it is called after `write`.
    """

    summary: str
    diverged: dict[str, int] | None
    metrics: dict[str, Any]
    images_per_second: float | None
    parameters: int
    epoch_seconds: list[float]
    resumed: dict[str, int] | None
    seconds: dict[str, float]
    numerics: Numerics
    write: Callable[[Path], None]
    step_memory: Callable[[], int]


class Clock:
    """The seconds of phases that follow each other."""

    def __init__(self, now: Callable[[], float]):
        self.now, self.last = now, now()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """The phase that has just ended took the time since the one before it, or since the clock was made."""
        now = self.now()
        self.seconds[phase], self.last = now - self.last, now


class Speed:
    """Training images a second so far, for the line of a run's progress.

    A run that was resumed has steps that this process did not make, so counting begins with the first report.
    """

    def __init__(self, images_per_step: int, now: Callable[[], float]):
        self.images_per_step, self.now = images_per_step, now
        self.first: tuple[int, float] | None = None

    def at(self, step: int) -> float:
        """Images a second between the first report and this one, 0 at the first."""
        now = self.now()
        if self.first is None:
            self.first = step, now
        return (step - self.first[0]) * self.images_per_step / max(now - self.first[1], 1e-9)
