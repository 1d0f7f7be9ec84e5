"""Reads the members of archives into memory: only those that are asked for, within a limit, and no code in them.

Nothing is written to the disk, so that links and absolute names in an archive have no meaning. Every function raises
ValueError, with a text of one line, for content that is truncated, damaged, too large or of another form.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from normbench.system.files import amount

# What arrays in pickles are made of, as numpy and Python have called it over the years.
HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


def untar(path: Path, names: Collection[str], largest: int) -> dict[str, bytes]:
    """Returns the content of the members with these names of a .tar.gz, which must have all of them as plain files.

    largest: the most bytes that the archive may have when it is decompressed, with its other members.
    """
    found: dict[str, bytes] = {}
    with (
        _damage(),
        gzip.open(path) as stream,
        _Limited(stream, largest) as limited,
        tarfile.open(fileobj=limited, mode="r|") as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # A long list of small members would fill the memory.
            if member.name in names and member.name not in found:
                content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                if content is None:
                    raise ValueError(f"{member.name} is no plain file")
                found[member.name] = content.read()
    absent = sorted(set(names) - set(found))
    if absent:
        raise ValueError(f"has no {absent[0]}")
    return found


def gunzip(path: Path, largest: int) -> bytes:
    """Returns the content of a .gz, at most `largest` bytes."""
    with _damage(), gzip.open(path) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"has more than {amount(largest)} when it is decompressed")
    return content


def idx(content: bytes) -> np.ndarray:
    """Returns an array in the IDX format of MNIST: 0, 0, 8 (for uint8), the number of dimensions, the lengths, data."""
    if len(content) < 4 or content[:3] != bytes([0, 0, 8]):
        raise ValueError("not in the IDX format with bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        by = " x ".join(map(str, shape))
        raise ValueError(f"should have {by} bytes after its head, and has {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def unpickle(content: bytes) -> Any:
    """Returns a pickle of Python 2 or 3 of numbers, texts, lists, dictionaries and arrays. It cannot run anything."""
    try:
        return _Harmless(io.BytesIO(content), encoding="latin1").load()
    except MemoryError:
        raise ValueError("a pickle of something that is too large") from None
    except Exception as error:  # Damaged pickles raise errors of any kind.
        raise ValueError(f"not a pickle of plain arrays: {str(error).partition(chr(10))[0]}") from None


class _Harmless(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


class _Limited(io.RawIOBase):
    """A stream that ends in a ValueError after a number of bytes."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, largest: int):
        self.stream, self.largest, self.left = stream, largest, largest

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"has more than {amount(self.largest)} when it is decompressed")
        return content


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"truncated, damaged or of another form: {str(error).partition(chr(10))[0]}") from None
