"""Checks of types where the type of a value hangs on what was read; unlike `assert`, they stay under `python -O`."""

from __future__ import annotations

from typing import Any, TypeVar

from normbench.system.errors import UserError

Value = TypeVar("Value")


def narrowed(value: Any, kind: type[Value], what: str) -> Value:
    """Returns a value if it is of a type. Raises UserError, which begins with `what`, if it is not."""
    if not isinstance(value, kind):
        raise UserError(f"{what}: is a {type(value).__name__}, and a {kind.__name__} is needed")
    return value
