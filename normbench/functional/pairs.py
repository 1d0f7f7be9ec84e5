"""Numbers that a convolution takes for rows and columns, alike or each its own."""

from __future__ import annotations

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
