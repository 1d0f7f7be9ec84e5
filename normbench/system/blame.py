"""The place of a mistake in somebody's own code: the file and the line that a message begins with."""

from __future__ import annotations

import functools
import inspect
import os
import re
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
LONGEST = 200  # characters of an exception's text in a message
DEFINES = re.compile(r"\s*(async\s+def|def|class)\s")
ESCAPES = re.compile(
    r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]"
)  # sequences and characters that steer a terminal

# What PyTorch says in errors of no type of their own, and the amounts that it and NumPy name.
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|(Storage size|Stride) calculation overflow"
)
NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
AMOUNT = re.compile(r"(?:[Tt]ried|Unable) to allocate (\d[\d.]*) (bytes|[KMGTPE]iB)")

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
    return not _is_installed(os.path.join(os.getcwd(), file)) and os.path.isfile(file)


def shown(file: str | Path, line: int | None = None) -> str:
    """A file, and a line if it is known, as messages name them: `my_methods/x.py:12`, from the working directory."""
    path = Path(file)
    if path.is_absolute() and path.resolve().is_relative_to(Path.cwd()):
        path = path.resolve().relative_to(Path.cwd())
    return f"{path}:{line}" if line else str(path)


def definition(thing: Any) -> str | None:
    """The file and line of a function, a method of a class, or a class; None if it has no Python source."""
    thing = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    thing = inspect.unwrap(getattr(thing, "func", thing))
    try:
        file, (lines, first) = inspect.getsourcefile(thing), inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return None
    starts = (number for number, text in enumerate(lines, first) if DEFINES.match(text))  # after its decorators
    return shown(file or "", next(starts, first))


def place(error: BaseException, also: tuple[str, ...] = (), inside: object = None) -> str | None:
    """The file and line in somebody's own code where an exception was raised, or None if no such code took part.

    It is that of the innermost call; for a SyntaxError it is that of the syntax. also: source files that count as own.
    inside: only calls from a method of this object on count.
    """
    if isinstance(error, SyntaxError) and error.filename and _counts(error.filename, also):
        return shown(error.filename, error.lineno)
    frames = list(traceback.walk_tb(error.__traceback__))
    if inside is not None:
        called = (number for number, (frame, _) in enumerate(frames) if frame.f_locals.get("self") is inside)
        frames = frames[next(called, len(frames)) :]
    found = [(frame.f_code.co_filename, line) for frame, line in reversed(frames)]
    return next((shown(file, line) for file, line in found if _counts(file, also)), None)


def caller(also: tuple[str, ...] = ()) -> str | None:
    """The file and line in somebody's own code that is running now, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _counts(frame.f_code.co_filename, also):
            return shown(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


@contextmanager
def torch_settings_kept() -> Iterator[Callable[[], bool]]:
    """Restores torch's global default type, gradient mode and device at the end, if torch is imported.

    Yields a function that returns whether one of them has changed.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda: False
        return

    def settings() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device()

    before = settings()
    try:
        yield lambda: settings() != before
    finally:
        if settings() != before:
            torch.set_default_dtype(before[0])
            torch.set_grad_enabled(before[1])
            torch.set_default_device(before[2])


def no_memory(error: BaseException) -> str | None:
    """A line about memory that could not be had, with the amount where the error tells it; None for another error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and NO_MEMORY.search(text)):
        return None
    asked = AMOUNT.search(text)
    if asked is None:
        return "not enough memory"
    amount, unit = asked.groups()
    amount, unit = (f"{int(amount) / 1e9:,.1f}", "GB") if unit == "bytes" else (amount.rstrip("."), unit)
    return f"not enough memory: {amount} {unit} were asked for at once"


def not_deterministic(error: BaseException) -> str | None:
    """A line about an operation that has no deterministic kernel, and names it; None for another error."""
    found = NOT_DETERMINISTIC.match(str(error)) if isinstance(error, RuntimeError) else None
    return found and f"recipe.deterministic: {found[1]} has no deterministic kernel on this device"


def known(error: BaseException) -> str | None:
    """A line about an error whose cause torch tells in its text alone; None for another error."""
    return no_memory(error) or not_deterministic(error)


def one_line(error: BaseException) -> str:
    """The type and the text of an exception in one line, or what `known` says about it."""
    if line := known(error):
        return line
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(ESCAPES.sub("", text).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def in_one_line(doing: str, where: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Turns exceptions of somebody's own code into UserError: file and line, type and text, and what was being done.

    where: the place to name. An exception keeps its traceback if the environment variable NORMBENCH_TRACEBACK is set.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # Own code may raise anything.
        if os.environ.get(TRACEBACK):
            raise
        raise UserError(f"{where(error) or 'unknown place'}: {one_line(error)} ({doing})") from error


@functools.cache
def _is_installed(path: str) -> bool:
    resolved = Path(path).resolve()
    return any(resolved.is_relative_to(folder) for folder in INSTALLED)


@functools.cache
def _counts(file: str, also: tuple[str, ...]) -> bool:
    return file in also or is_own(file)
