"""The one exception for what a user can put right, and the nearest valid name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. Its text is complete: it is printed without a traceback."""


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """The valid name that a misspelt one most likely stands for, or None where none is close."""
    names = sorted(valid)
    found = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    return found[0] if found else None


def hint(name: object, valid: Iterable[str], limit: int = 12) -> str:
    """The end of an error line about an unknown name: the nearest valid one, else the valid ones."""
    names = sorted(valid)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean '{close}'?"
    listed = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"valid: {listed}" if names else "no name is valid here"
