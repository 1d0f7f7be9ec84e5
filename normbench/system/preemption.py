"""SIGTERM, by which schedulers take machines back: a training run writes a checkpoint and ends with exit code 75."""

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
    """Whether this process was asked to end."""
    return _requested


@contextmanager
def saved() -> Iterator[None]:
    """Inside it a SIGTERM is only noted, as the code there asks `requested` and saves its state by itself."""
    global _saving
    before, _saving = _saving, True
    try:
        yield
    finally:
        _saving = before


def forked() -> None:
    """In a new process, before it does anything: it has nothing to save, and is to end if its parent was to."""
    global _saving
    _saving = False
    if _requested:
        raise SystemExit(EXIT_CODE)


def watch() -> None:
    """From now on SIGTERM ends the process with 75, or is noted where state is saved first."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: Any) -> None:
    global _requested
    _requested = True
    if not _saving:
        raise SystemExit(EXIT_CODE)
