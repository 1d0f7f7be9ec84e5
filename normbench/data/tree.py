"""The files below a folder, in one order on every file system, without hidden ones and safe from loops of links."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

NAMED = 5  # files and classes that a note names
# What systems and tools leave in folders of data, beside names that begin with a dot.
LEAVINGS = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "@eadir",
    "lost+found",
    "system volume information",
}


class Entry(NamedTuple):
    """A file below a folder, or something there that is no file to read.

    path: its path. name: its path below the folder, with "/" between. status: of the file, behind links; None unless
    there is one. why: why it is not to be read, e.g. `hidden`; empty for a file.
    """

    path: Path
    name: str
    status: os.stat_result | None
    why: str = ""


def walk(folder: Path) -> Iterator[Entry]:
    """All entries below a folder at any depth, in the order of their names.

    The order is that of the parts of the path in the Unicode form NFC, so it does not depend on the file system. Hidden
    folders, links to a folder above and what is no regular file come as an entry with a reason, and are not entered.
    Raises OSError if a folder cannot be read.
    """
    real = folder.resolve()
    above = frozenset(_identity(parent) for parent in (real, *real.parents))
    levels = [(iter(_sorted(folder)), "", above)]
    while levels:
        entries, prefix, above = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        name, path = prefix + entry.name, Path(entry.path)
        if hidden(entry.name):
            yield Entry(path, name + "/" * entry.is_dir(follow_symlinks=False), None, "hidden")
        elif is_folder(entry):
            identity = _identity(path)
            if identity in above:
                yield Entry(path, name + "/", None, "a link to a folder above")
            else:
                levels.append((iter(_sorted(path)), name + "/", above | {identity}))
        else:
            try:
                status = entry.stat()
            except OSError as error:  # a link to nowhere, or one of a ring of links
                yield Entry(path, name, None, f"a broken link ({error.strerror})")
                continue
            regular = stat.S_ISREG(status.st_mode)
            yield Entry(path, name, status if regular else None, "" if regular else "no regular file")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is not."""
    try:
        return entry.is_dir()
    except OSError:  # a ring of links
        return False


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or is left there by a system or a tool."""
    return name.startswith(".") or name.lower() in LEAVINGS


def composed(name: str) -> str:
    """The Unicode form NFC of a name, in which two names are equal that look equal."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def listed(names: Sequence[str]) -> str:
    """The first of some names, and whether there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _sorted(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: (composed(entry.name), entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
