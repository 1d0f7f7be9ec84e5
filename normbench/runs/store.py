"""The run store: one folder for each finished run, named by the run's id."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normbench.runs.contents import CHECKPOINTS, RECORD
from normbench.runs.record import Record
from normbench.system import files, layout

ID = re.compile("[0-9a-f]{16}")


def folder(run: str) -> Path:
    """Returns the folder of a finished run."""
    return layout.store() / run


def finished(run: str) -> bool:
    """Whether a run is in the store. Its folder is moved there as a whole, so if it has a record it is complete."""
    return (folder(run) / RECORD).is_file()


def record(run: str) -> Record:
    """Returns the record of a finished run."""
    return Record.read(folder(run) / RECORD)


def all_finished() -> list[str]:
    """Returns the ids of all finished runs in the store, whether the suite has them or not."""
    return sorted(path.parent.name for path in layout.store().glob(f"*/{RECORD}") if ID.fullmatch(path.parent.name))


def fetch(run: str, to: Path) -> None:
    """Copies a finished run from the store into the output of a stage."""
    files.copy_folder(folder(run), to)


def unfinished(run: str) -> Path:
    """Returns the folder of a run's checkpoints, which exists until the run is finished."""
    return layout.store() / f"{run}.unfinished"


def checkpoints(run: str) -> list[Path]:
    """The checkpoints of an unfinished run, the oldest first."""
    return sorted(unfinished(run).glob(CHECKPOINTS))


def forget(run: str) -> None:
    """Removes the checkpoints of a run."""
    shutil.rmtree(unfinished(run), ignore_errors=True)


@contextmanager
def claimed(run: str) -> Iterator[None]:
    """A context in which no other process that uses this store trains the run; waits if one is training it.

    The operating system holds the lock and releases it when the process ends, for whatever reason.
    """
    lock = _lock(run)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"run {run}: another process is training it; waiting for that", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def busy(run: str) -> bool:
    """Whether another process is training the run."""
    lock = _lock(run)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _lock(run: str) -> FileLock:
    path = layout.store() / "locks" / f"{run}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)
