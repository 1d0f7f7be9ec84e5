"""What a training loop asks of whoever keeps its state. Where that lies shapes no outcome, so it is not known here."""

from __future__ import annotations

from typing import Any, Protocol


class Keeper(Protocol):
    """Keeps the state of a training: tensors, numbers, text, and lists, tuples and dictionaries of them."""

    spent: float
    """Seconds in `save` so far."""

    def resume(self) -> dict[str, Any] | None:
        """The state that was saved last, with the global random generators set as they were then; None without one."""

    def due(self) -> bool:
        """Whether the state is to be saved now, in the middle of an epoch."""

    def save(self, state: dict[str, Any]) -> None:
        """Keeps the state; it may end the process then."""


class Nobody:
    """Keeps nothing: for trainings that are too short to be resumed."""

    spent = 0.0

    def resume(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        pass
