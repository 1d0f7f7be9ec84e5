"""Decoded images on a disk, so that they need not be decoded each time: pixels, one after the other, in files.

A file `<number>.raw` holds `SHARD` images, each uint8 (H, W, 3), and is mapped into memory. No result depends on which
of them are there. They lie in `layout.decoded()`, which DVC does not look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from normbench.system import files, layout
from normbench.system.progress import Progress

SHARD = 512  # images in a file
GB = 10**9  # bytes


class Decoded:
    """The decoded images of one dataset. key: their name. sizes: height and width of each in pixels, (N, 2)."""

    def __init__(self, key: str, sizes: np.ndarray):
        self.folder = layout.decoded() / key
        self.sizes = sizes
        self.ends = np.cumsum(np.prod(sizes, axis=1, dtype=np.int64) * 3)
        self.shards = -(-len(sizes) // SHARD)
        self.present = np.array([self.complete(shard) for shard in range(self.shards)])
        self.mapped: dict[int, np.ndarray] = {}

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{shard:05}.raw"

    def begin(self, number: int) -> int:
        """The bytes of all images before one."""
        return int(self.ends[number - 1]) if number else 0

    def bytes_of(self, shard: int) -> int:
        """The size of the file of a shard."""
        last = min((shard + 1) * SHARD, len(self.sizes)) - 1
        return int(self.ends[last]) - self.begin(shard * SHARD)

    def complete(self, shard: int) -> bool:
        """Whether the file of a shard is there."""
        try:
            return self.path(shard).stat().st_size == self.bytes_of(shard)
        except OSError:
            return False

    def picture(self, number: int) -> np.ndarray | None:
        """An image, uint8 (H, W, 3), which must not be changed; None if it is not there."""
        shard = number // SHARD
        if not self.present[shard]:
            return None
        if shard not in self.mapped:
            # "c" and not "r", as torch warns of arrays that must not be written; the file stays as it is.
            self.mapped[shard] = np.memmap(self.path(shard), np.uint8, mode="c")
        start = self.begin(number) - self.begin(shard * SHARD)
        height, width = self.sizes[number].tolist()
        return self.mapped[shard][start : start + 3 * height * width].reshape(height, width, 3)


# Functions and no methods, so that the digest of the code that reads images does not cover them.
def fill(decoded: Decoded, limit: float, read: Callable[[int], np.ndarray], title: str) -> int:
    """Keeps the first images, as many files as have at most `limit` GB together; returns the number of images.

    What an interrupted process has written is taken as it is. read: returns an image by its number. title: of the
    progress. Raises UserError for an image that cannot be read, and OSError if there is no room.
    """
    count, room, wanted = len(decoded.sizes), limit * GB, 0
    while wanted < decoded.shards and decoded.begin(wanted * SHARD) + decoded.bytes_of(wanted) <= room:
        wanted += 1
    kept = min(wanted * SHARD, count)
    decoded.folder.mkdir(parents=True, exist_ok=True)
    with Progress(f"decode {title}", total=max(1, kept)) as progress, ThreadPoolExecutor() as pool:
        for shard in range(wanted):
            numbers = range(shard * SHARD, min((shard + 1) * SHARD, count))
            if not decoded.present[shard]:
                write(decoded, shard, pool.map(read, numbers))
            progress.update(numbers.stop, f"{numbers.stop} of {kept}")
    return kept


def write(decoded: Decoded, shard: int, pictures: Iterable[np.ndarray]) -> None:
    """Writes the file of a shard, atomically."""
    path, size = decoded.path(shard), decoded.bytes_of(shard)
    with files.atomic(path) as partial, files.writing(partial, size), partial.open("wb") as file:
        for picture in pictures:
            file.write(np.ascontiguousarray(picture).data)
    decoded.present[shard] = True
