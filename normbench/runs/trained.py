"""What the training of a run returns, for classifiers and GANs alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.runs.record import Numerics


@dataclass
class Trained:
    """A trained run in memory.

    summary: how it ended, for the final line of its progress. diverged, metrics, images_per_second, parameters,
    epoch_seconds, resumed, numerics: as in `normbench.runs.record`. seconds: by phase. write: writes its files into a
    folder. step_memory: measures the peak bytes of a training step; that changes the weights, so `write` comes first.
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
    """Measures the seconds of consecutive phases."""

    def __init__(self, now: Callable[[], float]):
        self.now, self.last = now, now()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Ends a phase, which began at the end of the previous phase or when the clock was created."""
        now = self.now()
        self.seconds[phase], self.last = now - self.last, now


class Speed:
    """The training images per second so far, for the display of progress.

    Counting begins with the first report, because a resumed run has steps that this process did not compute.
    """

    def __init__(self, images_per_step: int, now: Callable[[], float]):
        self.images_per_step, self.now = images_per_step, now
        self.first: tuple[int, float] | None = None

    def at(self, step: int) -> float:
        """Returns the images per second between the first report and this one; 0 at the first report."""
        now = self.now()
        if self.first is None:
            self.first = step, now
        return (step - self.first[0]) * self.images_per_step / max(now - self.first[1], 1e-9)
