"""A run store at an fsspec address, for machines that share no folder: archives of finished runs, and checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from normbench.runs import archive, store
from normbench.runs.archive import BLOCK, LARGEST_MANIFEST
from normbench.runs.checkpoint import KEPT
from normbench.runs.contents import CHECKPOINTS, LARGEST, LARGEST_CHECKPOINT
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.scratch import scratch
from normbench.system.text import complain

MIRROR_INTERVAL = 2.0  # seconds between two searches for new checkpoints


class Remote:
    """The runs at an address: `<id>-<sha256>.run.tar` for finished runs, `<id>.unfinished/` for checkpoints of others.

    Raises UserError if fsspec does not know the address, or if a package that it needs is not installed.
    """

    def __init__(self, address: str):
        try:
            self.system, self.root = fsspec.core.url_to_fs(address, use_listings_cache=False)
            self.system.makedirs(self.root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise UserError(f"--store {address}: {str(error) or type(error).__name__}") from None

    def take(self, run: str) -> bool:
        """Copies a finished run, verified, into the local run store; returns whether the run is there.

        A damaged archive is renamed at the address, with `.damaged` at its end.
        """
        found = self.system.glob(f"{self.root}/{run}-*{archive.SUFFIX}")
        if not found or store.sound(run):
            return bool(found)
        for path in found:
            with scratch(layout.store() / "fetched") as folder:
                file = folder / path.rpartition("/")[2]
                try:
                    self._copy_archive(path, file)
                    archive.import_(file)
                    return True
                except UserError as error:
                    problem = str(error).replace(str(file), path)
            self.system.mv(path, f"{path}.damaged")
            complain(f"{problem}; set aside there, with .damaged at its end")
        return False

    def _copy_archive(self, path: str, to: Path) -> None:
        """Copies an archive if its size is the one that its manifest gives, so that no other is copied as a whole."""
        size = self.system.size(path)
        if size is None:  # not every file system knows it
            size = LARGEST_MANIFEST + sum(LARGEST.values())
        else:
            with self.system.open(path, "rb") as stream:
                archive.read_manifest(stream, size, path)
        self._copy(path, to, size)

    def _copy(self, path: str, to: Path, most: int) -> None:
        """Copies a file. Raises UserError, and stops, if it has more than `most` bytes."""
        with self.system.open(path, "rb") as stream, to.open("wb") as out:
            while block := stream.read(BLOCK):
                most -= len(block)
                if most < 0:
                    raise UserError(f"{path}: larger than any such file of a run, or than its size says")
                out.write(block)

    def give(self, run: str) -> None:
        """Copies a finished run from the local run store to the address, and removes its checkpoints there."""
        with scratch(layout.store() / "given") as folder:
            file = archive.export(run, folder)
            part = f"{self.root}/{file.name}.part"
            self.system.put_file(str(file), part)
            self.system.mv(part, f"{self.root}/{file.name}")
        for left in self.system.glob(f"{self.root}/{run}-*.part"):  # by a process that was killed here
            self.system.rm_file(left)
        if self.system.exists(self._unfinished(run)):
            self.system.rm(self._unfinished(run), recursive=True)

    def fetch_checkpoints(self, run: str) -> None:
        """Copies the newest checkpoints of an unfinished run from the address. They are verified when they are read."""
        folder = store.unfinished(run)
        for path in sorted(self.system.glob(f"{self._unfinished(run)}/{CHECKPOINTS}"))[-KEPT:]:
            try:
                with files.atomic(folder / path.rpartition("/")[2]) as temporary:
                    self._copy(path, temporary, LARGEST_CHECKPOINT)
            except UserError as error:
                complain(f"{error}; it is not used")

    @contextmanager
    def mirrored(self, run: str) -> Iterator[None]:
        """A context in which the checkpoints of a run are copied to the address within seconds of their writing.

        If a copy fails, it is tried again, also at the end of the context; the training continues.
        """
        ended, refused = threading.Event(), False

        def attempt() -> None:
            nonlocal refused
            try:
                self._mirror(run)
                refused = False
            except Exception as error:  # each of fsspec's file systems raises errors of its own
                if not refused:
                    complain(f"run {run}: checkpoint not copied to {self.root}: {error}")
                refused = True

        def mirror() -> None:
            while not ended.wait(MIRROR_INTERVAL):
                attempt()

        thread = threading.Thread(target=mirror, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            attempt()

    def _mirror(self, run: str) -> None:
        there = {path.rpartition("/")[2] for path in self.system.glob(f"{self._unfinished(run)}/{CHECKPOINTS}")}
        here = {path.name for path in store.checkpoints(run)}
        try:
            for name in sorted(here - there):
                self.system.makedirs(self._unfinished(run), exist_ok=True)
                part = f"{self._unfinished(run)}/{name}.part"  # so that a killed process leaves no partial checkpoint
                self.system.put_file(str(store.unfinished(run) / name), part)
                self.system.mv(part, f"{self._unfinished(run)}/{name}")
        except FileNotFoundError:
            return  # a newer checkpoint has replaced it; the next round copies that one
        for name in there - here if here else ():
            self.system.rm_file(f"{self._unfinished(run)}/{name}")

    def _unfinished(self, run: str) -> str:
        return f"{self.root}/{run}.unfinished"
