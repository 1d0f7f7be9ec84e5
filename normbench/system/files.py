"""Atomic writes of files and folders, copies, text and JSON, and hashes; a full disk is told with what is needed."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normbench.system.errors import UserError
from normbench.system.scratch import place, scratch

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a used quota, a limit on the size of files


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path; the file written there replaces `path` when the block ends without an error.

    The file is flushed to disk (fsync) before it is renamed, so a crash leaves either the old file or the new one.
    """
    path = Path(path)
    with scratch(path) as folder:
        made = folder / path.name
        yield made
        sync(made)
        made.replace(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder, which replaces `path` when the block ends without an error.

    Its files are flushed to disk (fsync) before the rename, so a crash leaves either the old folder or the new one.
    Raises UserError if `path` is a file.
    """
    path = Path(path)
    if path.is_file():
        raise UserError(f"{path}: a file, where a folder is needed; move it away")
    with scratch(path) as folder:
        made = folder / path.name
        made.mkdir()
        yield made
        to_disk(made)
        place(made, path)
        sync(path.parent)


def to_disk(folder: Path) -> None:
    """Flushes a folder, with all files and folders in it, to disk (fsync)."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flushes one file or folder to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: str | Path, size: int | None = None) -> Iterator[None]:
    """A context in which an OSError names `path`, and says how many bytes are needed if there is no room for them.

    size: the bytes that `path` will have, if that is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            needs = "" if size is None else f" (needs about {amount(size)})"
            raise OSError(error.errno, f"{os.strerror(error.errno)}{needs}", str(path)) from None
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def amount(size: float) -> str:
    """Returns a number of bytes as text, e.g. `1.2 GB`."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size:.0f} bytes"


def put(path: str | Path, content: bytes | memoryview) -> None:
    """Writes a file. Not atomic: it is for files in a temporary folder (see `atomic`, `atomic_folder`)."""
    with writing(path, len(content)):
        Path(path).write_bytes(content)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file, atomically."""
    with atomic(path) as temporary:
        put(temporary, content)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, atomically."""
    write_bytes(path, text.encode())


def copy(source: str | Path, to: str | Path) -> None:
    """Copies the bytes of a file. Not atomic, like `put`."""
    with writing(to, os.stat(source).st_size):
        shutil.copyfile(source, to)


def copy_folder(source: Path, to: Path) -> None:
    """Copies the files of a folder, and the folders in it, into the folder `to`, which is made if it is not there."""
    to.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, to / path.name)
        else:
            copy(path, to / path.name)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON, atomically, with sorted keys and fixed layout, so that equal values give equal files.

    Raises ValueError for numbers that are not finite.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_bytes(path: str | Path) -> bytes:
    """Returns the bytes of a file. Raises OSError, also for a pipe or a device, where a reader could wait for ever."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "is no file", str(path))
    return path.read_bytes()


def read_text(path: str | Path) -> str:
    """Returns the text of a file that a user may have written: UTF-8, with or without a byte order mark.

    Raises UserError, with the line, for bytes that are no such text; UserError too if the file cannot be read.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return text_of(content, path)


def text_of(content: bytes, path: str | Path) -> str:
    """Returns the text of the bytes of a file, without a byte order mark, with `\\n` at the ends of its lines.

    path: names the file in messages. Raises UserError, with the line, unless the bytes are UTF-8 without NUL.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Those of UTF-32 begin or end like these.
        raise UserError(f"{path}:1: its text is UTF-16, UTF-8 is needed: save the file as UTF-8")
    zero = content.find(b"\0")
    if zero >= 0:
        line = content.count(b"\n", 0, zero) + 1
        kind = "its text looks like UTF-16 or UTF-32" if content.count(b"\0") > len(content) / 4 else "has a NUL byte"
        raise UserError(f"{path}:{line}: {kind}: save the file as UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
        line, byte = content.count(b"\n", 0, start) + 1, content[start]
        meant = f" ({chr(byte)!r} in Latin-1)" if chr(byte).isprintable() else ""
        raise UserError(f"{path}:{line}: byte 0x{byte:02X}{meant} is not UTF-8: save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path) -> Any:
    """Returns the value in a JSON file. Raises UserError, with the line, if it is not JSON."""
    text = text_of(read_bytes(path), path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise UserError(f"{path}: not JSON that can be read: {error}") from None


def sha256(path: str | Path) -> str:
    """Returns the hexadecimal sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """Returns the hexadecimal sha256 of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
