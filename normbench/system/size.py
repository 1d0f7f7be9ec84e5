"""The size of images, in pixels: one number for a square, or height and width.

A square is always one number in files and ids, so that it has one name.
"""

from __future__ import annotations

from collections.abc import Sequence

Size = int | tuple[int, int]


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_of(height: int, width: int) -> Size:
    """Returns the size of images of this height and width."""
    return height if height == width else (height, width)
