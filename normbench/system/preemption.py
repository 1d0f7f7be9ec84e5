"""SIGTERM, which schedulers send before they take a machine back: a training saves a checkpoint and exits with 75."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later

_requested = False
_saving = False


def requested() -> bool:
    """Whether this process has received SIGTERM."""
    return _requested


@contextmanager
def saved() -> Iterator[None]:
    """A context in which SIGTERM only sets a flag: the code inside asks `requested` and saves its state itself."""
    global _saving
    before, _saving = _saving, True
    try:
        yield
    finally:
        _saving = before


def forked() -> None:
    """To be called first in a forked process, which has no state to save yet.

    It makes SIGTERM end the process again, and ends it at once, with exit code 75, if the parent has received SIGTERM.
    """
    global _saving
    _saving = False
    if _requested:
        raise SystemExit(EXIT_CODE)


def watch() -> None:
    """Installs a handler of SIGTERM: it ends the process with exit code 75, except inside `saved`.

    Signals can be handled in the main thread only; in another thread this does nothing.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: Any) -> None:
    global _requested
    _requested = True
    if not _saving:
        raise SystemExit(EXIT_CODE)
