"""Temporary folders in which files are made before they take their place, and what is left of them by a kill.

Such a folder is a neighbour of what is made in it, on the same file system, and is called `.<name>.<8 digits>.partial`.
.dvcignore names it, so that DVC never sees it. Its owner holds a lock of the operating system on it, which ends with
the last process that can write into it, for whatever reason. So one without a lock was left behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normbench.system.errors import UserError

OLD = ".old"  # in a temporary folder, what lay at the target
MARK = ".partial"
LONGEST = 100  # characters of a target's name that are in that of its temporary folder, since file systems limit names
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def scratch(target: str | Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`, which is removed at the end, as are those that killed processes left.

    An OSError that names a file in this folder is changed to name the same file at the target.
    """
    target = Path(target)
    make_folder(target.parent)
    clear(target)
    with _named_after(target):
        folder, lock = _locked_folder(target)
    try:
        with _named_after(target, folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def place(made: Path, target: Path) -> None:
    """Moves a folder from a temporary folder to `target`, in place of a folder that may be there.

    At no moment is there nothing at the target, if the system can exchange two names. Where it cannot, a kill between
    two renames leaves nothing there, and `discard` brings the folder back.
    """
    try:
        made.rename(target)  # which succeeds if there is nothing, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not exchange(made, target):
            with suppress(FileNotFoundError):  # another process has just replaced it
                target.rename(made.parent / OLD)
            made.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Gives each of two files or folders the name of the other, in one step; returns whether the system can do so."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def clear(target: Path) -> None:
    """Removes the temporary folders for `target` that killed processes have left behind."""
    for folder in left_behind(target.parent, target.name[:LONGEST]):
        discard(folder)


def left_behind(folder: Path, name: str | None = None) -> list[Path]:
    """Returns the temporary folders in `folder` whose owners have ended, sorted. name: only those for this target."""
    own = None if name is None else re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}{re.escape(MARK)}")
    try:
        paths = sorted(path for path in folder.iterdir() if is_temporary(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if (own is None or own.fullmatch(path.name)) and not in_use(path)]


def in_use(path: Path) -> bool:
    """Whether a process holds the lock on a file or folder. So it is taken to be where there are no locks."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ELOOP)  # A symbolic link is nothing that a process works on.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def discard(path: Path) -> None:
    """Removes what a killed process left behind, unless it is in use.

    If that process was killed when it had moved the old content of its target away, the new content takes its place
    first, since that is complete by then.
    """
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # It may be a named pipe.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Two processes may want to remove it.
        except OSError:
            return
        else:
            if path.is_dir():
                _finish(path)
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(lock)


def _finish(folder: Path) -> None:
    if (folder / OLD).exists():
        for made in folder.iterdir():
            if made.name != OLD and not (folder.parent / made.name).exists():
                made.rename(folder.parent / made.name)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those around it, unless it is there. Raises UserError if a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        files = (place for place in (folder, *folder.parents) if place.exists() and not place.is_dir())
        raise UserError(f"{next(files, folder)}: a file, where a folder is needed; move it away") from None


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """Makes a temporary folder and locks it; the lock is None if the file system has none."""
    while True:
        folder = target.parent / f".{target.name[:LONGEST]}.{secrets.token_hex(4)}{MARK}"
        folder.mkdir()
        lock = None
        try:
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder)):
                return folder, lock
        except (FileNotFoundError, BlockingIOError):
            pass  # Before it was locked, another process has taken it for left behind.
        except OSError:
            if lock is not None:
                os.close(lock)
            return folder, None
        if lock is not None:
            os.close(lock)


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has the name of a temporary folder, in use or left behind."""
    return path.name.startswith(".") and path.name.endswith(MARK)


@contextmanager
def _named_after(target: Path, folder: Path | None = None) -> Iterator[None]:
    """A context in which an OSError names the target in place of its temporary folder, and of what lies in that."""
    try:
        yield
    except OSError as error:
        for attribute in ("filename", "filename2"):
            name = getattr(error, attribute)
            if isinstance(name, str | Path):
                setattr(error, attribute, _final(str(name), target, folder))
        raise


def _final(name: str, target: Path, folder: Path | None) -> str:
    if folder is None:
        return str(target)
    if name == str(folder):
        return str(target)
    return str(target.parent / name.removeprefix(f"{folder}{os.sep}")) if name.startswith(f"{folder}{os.sep}") else name
