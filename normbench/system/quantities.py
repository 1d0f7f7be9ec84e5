"""The types of measured values and of names in records: what can be no such value is refused when it is read."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]  # any fraction of a whole
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
RunId = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]
Revision = Annotated[str, Field(pattern=r"\A([0-9a-f]{40}|[0-9a-f]{64})\z")]

# Categories of characters that no name has: control characters, surrogates, and separators of lines and paragraphs.
# Those of direction and width (Cf) are left out, as names in some scripts need them.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
LINES = {"\n", "\t"}  # a free text may have them


def _time(text: str) -> str:
    try:
        aware = datetime.datetime.fromisoformat(text).utcoffset() is not None
    except ValueError:
        aware = False
    if not aware:
        raise ValueError("must be a time with its zone in ISO 8601, such as 2026-03-01T10:00:00+00:00")
    return text


Time = Annotated[str, AfterValidator(_time)]


def unprintable(value: Any, free: frozenset[str] = frozenset(), at: str = "") -> str | None:
    """Returns the place of the first text in a JSON value that has a control character; None if there is none.

    free: the places of free texts, which may have line breaks and tabs. at: the place of the value itself.
    """
    if isinstance(value, str):
        allowed = LINES if at in free else ()
        bad = any(unicodedata.category(each) in UNPRINTABLE and each not in allowed for each in value)
        return at if bad else None
    pairs: list[tuple[object, Any]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence):
        pairs = list(enumerate(value))
    for key, part in pairs:
        if isinstance(key, str) and unprintable(key) is not None:
            return f"{at}.{key!r}" if at else repr(key)
        found = unprintable(part, free, f"{at}.{key}" if at else str(key))
        if found is not None:
            return found
    return None


def not_numbers(value: Any, at: str = "") -> str | None:
    """Returns the place of the first thing in a JSON value that is no finite number; None if there are only such.

    Lists, dictionaries with texts as keys, and None for a number that does not exist are allowed. at: the place of the
    value itself.
    """
    if value is None or (type(value) in (int, float) and math.isfinite(value)):
        return None
    pairs: list[tuple[object, Any]]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return at or "the value"
    places = (not_numbers(part, f"{at}.{key}" if at else str(key)) for key, part in pairs)
    return next((place for place in places if place is not None), None)
