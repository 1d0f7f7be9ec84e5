"""The run store: what finished runs leave, each in a folder named by a hash of everything that shapes its outcome."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.system import files, layout

RECORD = "record.json"


def run_id(kind: str, task: dict[str, Any], variant: dict[str, Any], dataset: str, seed: int, code: str) -> str:
    """The id of a run, 16 hexadecimal digits.

    kind: `classification` or `gan`. task, variant: as resolved, with the fingerprints of model and method. dataset: the
    fingerprint of its content. code: that of the training code. Names are left out, so that a renamed task or variant
    keeps its runs, and so is the list of seeds.
    """
    named = {"name", "seeds"}
    return files.hash_of(
        {
            "kind": kind,
            "task": {key: value for key, value in task.items() if key not in named},
            "variant": {key: value for key, value in variant.items() if key not in named},
            "dataset": dataset,
            "seed": seed,
            "code": code,
        }
    )[:16]


def folder(run: str) -> Path:
    return layout.store() / run


def finished(run: str) -> bool:
    """Whether a run is in the store. A folder is moved there whole, so that its record says that it is complete."""
    return (folder(run) / RECORD).is_file()


def unfinished(run: str) -> Path:
    """Where a run keeps its checkpoints until it is finished."""
    return layout.store() / f"{run}.unfinished"


def forget(run: str) -> None:
    """Removes the checkpoints of a run."""
    shutil.rmtree(unfinished(run), ignore_errors=True)


@contextmanager
def claimed(run: str) -> Iterator[None]:
    """Inside it no other process of this store trains the run; where one does, it is waited for first.

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
    """Whether another process trains the run at the moment."""
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


def fetch(run: str, to: Path) -> None:
    """Copies a finished run from the store to a stage's output."""
    shutil.copytree(folder(run), to)


def all_finished() -> list[str]:
    """The ids of the finished runs in the store, of this suite or not."""
    return sorted(path.parent.name for path in layout.store().glob(f"[0-9a-f]*/{RECORD}"))


def record(run: str) -> dict[str, Any]:
    return files.read_json(folder(run) / RECORD)
