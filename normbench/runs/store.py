"""The run store: what finished runs leave, each in a folder named by the run's id."""

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
from normbench.system import layout

ID = re.compile("[0-9a-f]{16}")


def folder(run: str) -> Path:
    """Where a finished run lies."""
    return layout.store() / run


def finished(run: str) -> bool:
    """Whether a run is in the store. A folder is moved there whole, so its record says that it is complete."""
    return (folder(run) / RECORD).is_file()


def record(run: str) -> Record:
    """The record of a finished run."""
    return Record.read(folder(run) / RECORD)


def all_finished() -> list[str]:
    """The ids of the finished runs in the store, of this suite or not."""
    return sorted(path.parent.name for path in layout.store().glob(f"*/{RECORD}") if ID.fullmatch(path.parent.name))


def fetch(run: str, to: Path) -> None:
    """Copies a finished run from the store into a stage's output."""
    shutil.copytree(folder(run), to)


def unfinished(run: str) -> Path:
    """Where a run keeps its checkpoints until it is finished."""
    return layout.store() / f"{run}.unfinished"


def checkpoints(run: str) -> list[Path]:
    """The checkpoints of an unfinished run, the oldest first."""
    return sorted(unfinished(run).glob(CHECKPOINTS))


def forget(run: str) -> None:
    """Removes the checkpoints of a run."""
    shutil.rmtree(unfinished(run), ignore_errors=True)


@contextmanager
def claimed(run: str) -> Iterator[None]:
    """Inside it no other process of this store trains the run; where one does, this waits for it first.

    The lock is one of the operating system, which releases it when its owner ends, in whatever way.
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
