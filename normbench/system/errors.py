"""The exception for mistakes that the user can correct, errors of the system in one line, and suggestions for names."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable

from normbench.system.text import clean


class UserError(Exception):
    """A mistake that the user can correct. Its text is the complete message, which is printed without a traceback.

    Each argument is one line. A line break within an argument is part of a name from outside and becomes an escape, as
    do control characters (see `normbench.system.text.clean`).
    """

    def __str__(self) -> str:
        return "\n".join(map(clean, self.args))


def line(error: OSError) -> str:
    """Returns an error of the operating system as one line: the file, and what is wrong with it."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        _, target, reason = error.args[0][0]  # of the first of the files that could not be copied
        return f"{target}: {str(reason).partition(chr(10))[0]}"
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or str(error) or type(error).__name__
    return " ".join(f"{' -> '.join(names) or 'disk'}: {reason}".splitlines())


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """Returns the valid name that is most similar to a misspelt one, or None if none is similar."""
    names = sorted(valid)
    found = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    return found[0] if found else None


def hint(name: object, valid: Iterable[str], limit: int = 12) -> str:
    """Returns the end of an error message about an unknown name: the nearest valid name, or else the valid names.

    At most `limit` names are listed.
    """
    names = sorted(valid)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean '{close}'?"
    listed = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"valid: {listed}" if names else "no name is valid here"
