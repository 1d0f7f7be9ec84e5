"""Pairs of what has to be tried together, each with one of several settings, so that one more costs one trial a partner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

One, Other, Setting = TypeVar("One"), TypeVar("Other"), TypeVar("Setting")


def covering(
    ones: Iterable[One], others: Iterable[Other], settings: Sequence[Setting]
) -> list[tuple[One, Other, Setting]]:
    """All pairs, in which each one and each other has all settings, if it has at least as many partners."""
    return [
        (one, other, settings[(i + j) % len(settings)]) for i, one in enumerate(ones) for j, other in enumerate(others)
    ]
