"""Arguments of convolutions that are one number or a pair (rows, columns), such as a kernel size or a stride."""

from __future__ import annotations

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """The pair (rows, columns) of a number, which then holds for both, or of a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
