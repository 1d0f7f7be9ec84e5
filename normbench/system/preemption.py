"""SIGTERM, which schedulers send before they take a machine back: a training saves a checkpoint and exits with 75.

A child process gets it too when its parent has ended, so that no process goes on for nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
ENDS_WITH = "NORMBENCH_ENDS_WITH"  # a variable with the id of the sweep that calls a stage, itself or through DVC
PR_SET_PDEATHSIG = 1  # of Linux
LOOK = 0.5

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


def end_with(process: int) -> None:
    """To be called first in the main thread of a process: sends it SIGTERM when another process ends, also by a kill.

    process: the id of its parent, or of another process before it. On Linux the system sends the signal at once when a
    parent has ended; otherwise a thread looks every `LOOK` seconds.
    """
    child = os.getppid() == process
    if child and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != process:  # It has ended in this moment.
            os.kill(os.getpid(), signal.SIGTERM)
        return

    def look() -> None:
        while os.getppid() == process if child else _exists(process):
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # Another error is about the process of somebody else.
    return True


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
