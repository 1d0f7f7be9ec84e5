"""Digests of the files and folders outside of DVC's view that datasets are made of.

A digest covers names and contents, so it is the same on every machine. As long as no size and no time of a file has
changed, it is taken from a cache on this machine (`layout.LOOKED`), and only the status of each file is read.
`layout.OUTSIDE`, which DVC stores with the results, has the digests that were last noted: a machine that has pulled the
results but not the data keeps them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from normbench.data.tree import Entry, composed, walk
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.text import clean, complain

# A file that changed so short a time ago may change once more without another time, so its digest is not kept.
RECENT = 2.0  # seconds
BATCH = 1024  # files whose digests are computed at a time
# What the pipeline itself writes.
OWN = {layout.DATA.parts[0], layout.RESULTS.parts[0], "runs", ".dvc", ".git"}


def digest(places: Iterable[str]) -> str | None:
    """One digest over all places that have files; None if none has.

    places: paths of files and folders, relative to the working directory or with `~`. Raises UserError if one cannot be
    read.
    """
    found = contents(places)
    return files.hash_of(found) if found else None


def contents(places: Iterable[str]) -> dict[str, str]:
    """The digest of each place that has files, or had some when it was last noted."""
    found = {}
    for place in sorted(set(places)):
        known = _content(place)
        if known is None and (known := noted().get(place)) is not None:
            _say_once(f"{clean(place)}: not there; what was made of it is kept as it is")
        if known is not None:
            found[place] = known
    return found


def noted() -> dict[str, str]:
    """The digests that were last noted, by place."""
    return _json(layout.OUTSIDE)


@cache
def _say_once(line: str) -> None:
    complain(line)


def _content(place: str) -> str | None:
    """The digest of a file, or of all files below a folder; None if there are none, or only those of the pipeline."""
    try:
        path = Path(place).expanduser()
        if not place or not path.exists():
            return None
        real, here = path.resolve(), Path.cwd().resolve()
        if here.is_relative_to(real) or (real.is_relative_to(here) and real.relative_to(here).parts[0] in OWN):
            return None
        started = time.time()
        state, count, newest = _state(path)
        kept = _json(layout.LOOKED)
        entry = kept.get(str(real))
        if isinstance(entry, dict) and entry.get("state") == state:
            return entry.get("content")
        found = _hashed(path, count, place) if count else None
        if newest < started - RECENT:
            files.write_json(layout.LOOKED, kept | {str(real): {"state": state, "content": found}})
        return found
    except (OSError, ValueError, RuntimeError) as error:  # not a path at all, or a home that nobody has
        if isinstance(error, OSError) and os.path.lexists(place):
            raise UserError(f"{clean(error.filename or place)}: {error.strerror or error}") from None
        return None


def _state(path: Path) -> tuple[str, int, float]:
    """A digest of names, sizes and times, the number of files, and when one was changed last, in seconds."""
    state, count, newest = hashlib.sha256(), 0, 0
    for entry in _files(path):
        status = entry.status
        if status is None:
            continue
        state.update(f"{entry.name!a} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
        count, newest = count + 1, max(newest, status.st_ctime_ns)  # st_mtime can be set, to the future too
    return state.hexdigest(), count, newest / 1e9


def _hashed(path: Path, count: int, title: str) -> str:
    """The digest of names and contents. count: the number of files."""
    found, done = hashlib.sha256(), 0
    entries = _files(path)
    with Progress(f"look at {clean(title)}", total=count) as progress, ThreadPoolExecutor() as pool:
        while batch := list(islice(entries, BATCH)):
            for entry, checksum in zip(batch, pool.map(files.sha256, [entry.path for entry in batch]), strict=True):
                found.update(f"{composed(entry.name)!a} {checksum}\n".encode())
                done += 1
                progress.update(min(done, count), f"{done} of {count} files")
    return found.hexdigest()


def _files(path: Path) -> Iterator[Entry]:
    """The files of a place: itself, or all below it that are not hidden."""
    if path.is_dir():
        return (entry for entry in walk(path) if entry.status is not None)
    return iter([Entry(path, "", path.stat())] if path.is_file() else [])


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or a damaged one, which the next look replaces."""
    try:
        value = files.read_json(path)
    except (OSError, UserError):
        return {}
    return value if isinstance(value, dict) else {}
