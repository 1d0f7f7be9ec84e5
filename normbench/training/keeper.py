"""The interface through which a training loop saves and restores its state.

Where the state is stored does not affect the outcome of a run, so the training code does not know it.
"""

from __future__ import annotations

from typing import Any, Protocol


class Keeper(Protocol):
    """Stores the state of a training run: tensors, numbers, strings, and lists, tuples and dictionaries of them."""

    spent: float
    """Seconds spent in `save` so far."""

    def resume(self) -> dict[str, Any] | None:
        """Returns the last saved state and restores the global random generators to match it; None if there is none."""

    def due(self) -> bool:
        """Whether it is time to save the state, in the middle of an epoch."""

    def save(self, state: dict[str, Any]) -> None:
        """Stores the state. It may end the process afterwards, for example when a stop has been requested."""


class Nobody:
    """A Keeper that stores nothing, for training runs too short to be worth resuming."""

    spent = 0.0

    def resume(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        pass
