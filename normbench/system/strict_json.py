"""JSON from outside, read without the liberties that Python's reader takes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def parse(content: bytes) -> Any:
    """Returns the value of a JSON text in UTF-8.

    Raises ValueError for what two readers could take differently, a key twice in one object or a number that is not
    finite, and for values that are nested too deeply.
    """
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refused, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {twice!r} is there twice")
    return found


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"{text} is not finite")
    return number
