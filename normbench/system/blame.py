"""The place of a mistake in somebody's own code: the file and the line that a message begins with."""

from __future__ import annotations

import inspect
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from normbench.system.errors import UserError

# A value of this environment variable lets errors keep their traceback.
TRACEBACK = "NORMBENCH_TRACEBACK"
LONGEST = 300  # characters of an exception's text in a message

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = [PACKAGE, PACKAGE.parent / "stages"]
INSTALLED += [
    Path(folder).resolve()
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
]


def is_own(file: str) -> bool:
    """Whether a source file is somebody's own: neither of normbench, nor of Python, nor of an installed package."""
    path = Path(file).resolve()
    theirs = any(path.is_relative_to(folder) for folder in INSTALLED)
    return not theirs and path.is_file()


def shown(file: str | Path, line: int | None = None) -> str:
    """A file, and a line if it is known, as messages name them: `my_methods/x.py:12`, from the working directory."""
    path = Path(file)
    if path.is_absolute() and path.resolve().is_relative_to(Path.cwd()):
        path = path.resolve().relative_to(Path.cwd())
    return f"{path}:{line}" if line else str(path)


def definition(thing: Any) -> str | None:
    """The file and line of a function, a method of a class, or a class; None if it has no Python source."""
    thing = inspect.unwrap(getattr(thing, "__func__", thing))
    code = getattr(thing, "__code__", None)
    if code is not None:
        return shown(code.co_filename, code.co_firstlineno)
    try:
        return shown(inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1])
    except (OSError, TypeError):
        return None


def place(error: BaseException, also: tuple[str, ...] = ()) -> str | None:
    """The file and line in somebody's own code where an exception was raised, or None if no such code took part.

    It is that of the innermost call; for a SyntaxError it is that of the syntax. also: source files that count as own.
    """
    if isinstance(error, SyntaxError) and error.filename and _counts(error.filename, also):
        return shown(error.filename, error.lineno)
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return next((shown(file, line) for file, line in reversed(frames) if _counts(file, also)), None)


def caller(also: tuple[str, ...] = ()) -> str | None:
    """The file and line in somebody's own code that is running now, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _counts(frame.f_code.co_filename, also):
            return shown(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def one_line(error: BaseException) -> str:
    """The type and the text of an exception in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def in_one_line(
    doing: str, fallback: Callable[[], str | None] = lambda: None, also: tuple[str, ...] = ()
) -> Iterator[None]:
    """Turns exceptions of somebody's own code into UserError: file and line, type and text, and what was being done.

    fallback: a place to name if the exception was raised in none of that code. also: source files that count as own.
    An exception keeps its traceback if the environment variable NORMBENCH_TRACEBACK is set.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # Own code may raise anything.
        if os.environ.get(TRACEBACK):
            raise
        where = place(error, also) or fallback()
        raise UserError(f"{f'{where}: ' if where else ''}{one_line(error)} ({doing})") from error


def _counts(file: str, also: tuple[str, ...]) -> bool:
    return file in also or is_own(file)
