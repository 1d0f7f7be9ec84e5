"""The run store: one folder for each finished run, named by the run's id."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normbench.runs.contents import CHECKPOINTS, RECORD
from normbench.runs.finished import record_in
from normbench.runs.record import TrainedRecord
from normbench.runs.run import Run
from normbench.system import files, layout, scratch
from normbench.system.errors import UserError
from normbench.system.text import complain

ID = re.compile("[0-9a-f]{16}")
# What a store has: runs, their checkpoints, results that were set aside, locks, compiled code, studies, and temporary
# folders.
MEMBERS = re.compile(r"[0-9a-f]{16}(\.unfinished|\.bad-[0-9]+)?|locks|compiled|studies|\..*")
NAMED = 20  # results that cannot be used which a process names

_named: list[str] = []


def folder(run: str) -> Path:
    """Returns the folder of a finished run."""
    return layout.store() / run


def finished(run: str) -> bool:
    """Whether a run is in the store: with a valid record and files of the recorded sizes.

    What cannot be used is named on stderr, once in a process, and counts as not there.
    """
    return _usable(run, whole=False)


def sound(run: str) -> bool:
    """Like `finished`, but the sha256 of the files is compared too, once a process for each file."""
    return _usable(run, whole=True)


def record(run: str) -> TrainedRecord:
    """Returns the record of a finished run. Raises UserError if it is not in the store or cannot be used."""
    found = record_in(folder(run), whole=False)
    if found.run != run:
        raise UserError(f"{folder(run) / RECORD}: is the record of run {found.run}")
    return found


def done(run: Run) -> bool:
    """Whether a run is finished: either in the run store, or in the output of its stage, where `dvc pull` puts it."""
    if finished(run.id):
        return True
    try:
        return record_in(run.linked, whole=False).run == run.id
    except UserError:
        return False


def all_finished() -> list[str]:
    """Returns the ids of all finished runs in the store, whether the suite has them or not.

    What cannot be used, and what no store has, is named on stderr, once in a process.
    """
    names = sorted(os.listdir(layout.store())) if layout.store().is_dir() else []
    foreign = [name for name in names if not MEMBERS.fullmatch(name)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        _tell(f"{layout.store()}: {foreign[0]!a}{more}: not of a run store")
    return [name for name in names if ID.fullmatch(name) and finished(name)]


def fetch(run: str, to: Path) -> None:
    """Copies a finished run from the store into the output of a stage: its record, and the files that this names."""
    to.mkdir(parents=True)
    for name in [RECORD, *record(run).files]:
        files.copy(folder(run) / name, to / name)


def set_aside(run: str) -> None:
    """Renames what the store has in the place of a run, so that a new result can take it and nothing is lost.

    For what `sound` has named, while the run is claimed. Does nothing if there is nothing.
    """
    path = folder(run)
    if os.path.lexists(path):
        names = (f"{run}.bad-{number}" for number in itertools.count(1))
        aside = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
        path.rename(aside)
        complain(f"{path}: set aside as {aside.name}")


def _usable(run: str, whole: bool) -> bool:
    if not os.path.lexists(folder(run)):
        return False
    try:
        record(run)
        if whole:
            record_in(folder(run))
    except UserError as error:
        _tell(str(error))
        return False
    return True


def _tell(text: str) -> None:
    """Names something that is left out, once in a process; after the first few, only that there are more."""
    if text not in _named:
        _named.append(text)
        if len(_named) <= NAMED:
            complain(f"{text}; left out")
        elif len(_named) == NAMED + 1:
            complain(f"{layout.store()}: more is left out for such reasons")


def unfinished(run: str) -> Path:
    """Returns the folder of a run's checkpoints, which exists until the run is finished."""
    return layout.store() / f"{run}.unfinished"


def checkpoints(run: str) -> list[Path]:
    """The checkpoints of an unfinished run, the oldest first."""
    return sorted(unfinished(run).glob(CHECKPOINTS))


def forget(run: str) -> None:
    """Removes the checkpoints of a run."""
    shutil.rmtree(unfinished(run), ignore_errors=True)


def discard(run: str) -> None:
    """Removes a finished run, which nothing needs any more."""
    with claimed(run):
        scratch.discard(folder(run))


@contextmanager
def claimed(run: str) -> Iterator[None]:
    """A context in which no other process that uses this store trains the run; waits if one is training it.

    The operating system holds the lock and releases it when the process ends, for whatever reason.
    """
    lock = _lock(run)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        complain(f"run {run}: another process is training it; waiting for that")
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
