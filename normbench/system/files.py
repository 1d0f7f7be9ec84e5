"""Atomic writes of files and folders, text and JSON, and hashes."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normbench.system.errors import UserError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path; the file written there replaces `path` when the block ends without an error.

    The file is flushed to disk (fsync) before it is renamed, so a crash leaves either the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which replaces `path` when the block ends without an error.

    Its files are flushed to disk (fsync) before the rename, so a crash leaves either a complete folder or none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        to_disk(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON, atomically, with sorted keys and fixed layout, so that equal values give equal files.

    Raises ValueError for numbers that are not finite.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """Returns the text of a file that a user may have written: UTF-8, with or without a byte order mark.

    Raises UserError, with the line, for bytes that are no such text; UserError too if the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
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
    text = text_of(Path(path).read_bytes(), path)
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
