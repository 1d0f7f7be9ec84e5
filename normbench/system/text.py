"""Text for people: made harmless for terminals, and printed."""

from __future__ import annotations

import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

# Categories of characters that act instead of being shown: controls, which steer the terminal; formats, such as those
# that turn the direction of writing or have no width; lone surrogates; separators of lines and paragraphs.
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}

INTERRUPTED = "interrupted: what was finished is kept, the same command goes on"


def clean(text: object) -> str:
    """Returns a text as one line in which every character that acts instead of being shown is an escape, `\\x1b`."""
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    return "".join(_escape(char) if unicodedata.category(char) in ACTING else char for char in line)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def excerpt(text: object, most: int = 80) -> str:
    """Returns the beginning of a text of unknown length, cleaned and in quotation marks."""
    line = str(text)
    return f"'{clean(line[:most])}{'...' if len(line) > most else ''}'"


def say(*lines: object, to: TextIO | None = None) -> None:
    """Prints lines, each cleaned, to stdout or another stream, and flushes it.

    This is the only place of the package that prints, so that no name, path or message from outside reaches a terminal
    as it is. Characters that the stream cannot encode are escapes too.
    """
    stream = sys.stdout if to is None else to
    text = "".join(f"{clean(line)}\n" for line in lines)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def complain(*lines: object) -> None:
    """Prints lines to stderr, as `say` does."""
    say(*lines, to=sys.stderr)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an unexpected error as Python does, but cleaned, and an interrupt as one line; for `sys.excepthook`."""
    if issubclass(kind, KeyboardInterrupt):
        complain(INTERRUPTED)
        return
    complain(*"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"))
