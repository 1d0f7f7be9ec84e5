"""Files whose sha256 is known: each is read once in a process, and again only if it has changed since then.

A forked process knows what its parent has read, so that parallel workers do not each read a large file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from normbench.system import files

Signature = tuple[int, int, int, int]

_read: dict[tuple[str, Signature], str] = {}


def signature(path: Path) -> Signature:
    """Returns device, inode, size and time of the last change of a file.

    Raises OSError if there is no file, also for a pipe or a device, on which a reader could wait for ever.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no file", str(path))
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, read once in a process unless the file changes. Raises OSError."""
    key = os.path.abspath(path), signature(path)
    if key not in _read:
        _read[key] = files.sha256(path)
    return _read[key]


def size_problem(path: Path, size: int) -> str | None:
    """Returns how a file differs from one of this size in bytes, or None if it does not."""
    try:
        if not path.is_file():
            return "is no file" if path.exists() else "is missing"
        found = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if found == size else f"is damaged: it has {found} bytes, {size} were written"


def problem(path: Path, expected: str, size: int) -> str | None:
    """Returns how a file differs from one with this sha256 and size in bytes, or None if it does not."""
    found = size_problem(path, size)
    if found is None:
        try:
            found = None if sha256(path) == expected else "is damaged: its bytes are not those that were written"
        except OSError as error:
            found = f"cannot be read: {error.strerror or error}"
    return found
