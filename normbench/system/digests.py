"""Digests of definitions, where those of the package are computed once for each state of its source files.

To parse the package and to follow its names takes a second or two, which every command would spend. What was computed
is kept in the memory, and in build/digests.json if there is a folder `build`. A state is a hash of all files of the
package, so that a digest is never that of other code.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normbench.system import files, fingerprint
from normbench.system.fingerprint import Root, closure
from normbench.system.source_tree import PACKAGE, PACKAGE_ROOT

KEPT = Path("build/digests.json")
DIGEST = re.compile("[0-9a-f]{64}")

Digests = dict[str, str]  # by the names of the roots
Stamp = tuple[tuple[str, int, int], ...]

_hashed: dict[Stamp, str] = {}  # the state of files with these paths, times and sizes
_known: dict[str, Digests] = {}  # by the state of the package
_open: Digests | None = None  # inside of `one_reading`


@contextmanager
def one_reading() -> Iterator[None]:
    """A context in which all digests show the source files at one time (see `fingerprint.one_reading`).

    What is computed in it is known from then on, unless a file has been edited meanwhile.
    """
    global _open
    if _open is not None:
        yield
        return
    before = state()
    _open = dict(_known.get(before) or _read(before))
    try:
        with fingerprint.one_reading():
            yield
    finally:
        found, _open = _open, None
        if state() == before:
            _known[before] = found
            _keep(before, found)


def digest(roots: Iterable[Root]) -> str:
    """Returns the hexadecimal digest of what roots mean, with everything that they use.

    Raises UserError if a file is not valid Python or does not define its root.
    """
    roots, package = list(roots), PACKAGE_ROOT / PACKAGE
    if not all(root.file.resolve().is_relative_to(package) for root in roots):
        return closure(roots).digest
    known = _open
    if known is None:
        with one_reading():
            return digest(roots)
    key = " ".join(sorted(f"{root.file.resolve().relative_to(package).as_posix()}:{root.name}" for root in roots))
    if key not in known:
        known[key] = closure(roots).digest
    return known[key]


def state() -> str:
    """Returns a hash of all source files of the package as they are now, and of the version of Python."""
    package = PACKAGE_ROOT / PACKAGE
    paths = sorted(package.rglob("*.py"))
    stats = [path.stat() for path in paths]
    stamp = tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in zip(paths, stats, strict=True))
    if stamp not in _hashed:
        hashed = hashlib.sha256(repr(sys.version_info[:2]).encode())
        for path in paths:
            hashed.update(path.relative_to(package).as_posix().encode() + b"\0")
            hashed.update(hashlib.sha256(path.read_bytes()).digest())
        _hashed[stamp] = hashed.hexdigest()
    return _hashed[stamp]


def _read(now: str) -> Digests:
    """Returns what is kept of a state; what is damaged is as if it were not there."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(files.read_bytes(KEPT))
        if kept["state"] == now:
            return {key: value for key, value in kept["digests"].items() if DIGEST.fullmatch(value)}
    return {}


def _keep(now: str, found: Digests) -> None:
    """Keeps the digests of a state, beside those that other processes have kept of it."""
    kept = _read(now)
    if found.keys() - kept.keys() and KEPT.parent.is_dir():
        with suppress(OSError):  # It spares time, and is no result.
            files.write_json(KEPT, {"state": now, "digests": kept | found})
