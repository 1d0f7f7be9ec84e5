"""A run store at any address that fsspec knows, for machines that share no folder: archives and checkpoints of runs."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from normbench.runs import archive, store
from normbench.runs.contents import CHECKPOINTS
from normbench.system.errors import UserError

MIRROR_INTERVAL = 2.0  # seconds between two looks for new checkpoints


class Remote:
    """What lies at an address: `<id>-<sha256>.run.tar` of finished runs, `<id>.unfinished/` with checkpoints of others.

    Raises UserError where fsspec does not know the address, or a package for it is missing.
    """

    def __init__(self, address: str):
        try:
            self.system, self.root = fsspec.core.url_to_fs(address, use_listings_cache=False)
            self.system.makedirs(self.root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise UserError(f"--store {address}: {str(error) or type(error).__name__}") from None

    def take(self, run: str) -> bool:
        """Brings a finished run into the store of this machine, verified; False where there is none at the address.

        An archive that is damaged is set aside there, as if it were none.
        """
        found = self.system.glob(f"{self.root}/{run}-*{archive.SUFFIX}")
        if not found or store.finished(run):
            return bool(found)
        for path in found:
            with tempfile.TemporaryDirectory(prefix="normbench-") as scratch:
                file = Path(scratch) / path.rpartition("/")[2]
                self.system.get_file(path, str(file))
                try:
                    archive.import_(file)
                    return True
                except UserError as error:
                    problem = str(error).replace(str(file), path)
            self.system.mv(path, f"{path}.damaged")
            print(f"{problem}; set aside there, with .damaged at its end", file=sys.stderr, flush=True)
        return False

    def give(self, run: str) -> None:
        """Writes a finished run of this machine's store to the address, and removes its checkpoints there."""
        with tempfile.TemporaryDirectory(prefix="normbench-") as scratch:
            file = archive.export(run, Path(scratch))
            part = f"{self.root}/{file.name}.part"
            self.system.put_file(str(file), part)
            self.system.mv(part, f"{self.root}/{file.name}")
        if self.system.exists(self._unfinished(run)):
            self.system.rm(self._unfinished(run), recursive=True)

    def fetch_checkpoints(self, run: str) -> None:
        """Brings the checkpoints of an unfinished run here. They are verified when they are read."""
        folder = store.unfinished(run)
        for path in self.system.glob(f"{self._unfinished(run)}/{CHECKPOINTS}"):
            folder.mkdir(parents=True, exist_ok=True)
            self.system.get_file(path, str(folder / path.rpartition("/")[2]))

    @contextmanager
    def mirrored(self, run: str) -> Iterator[None]:
        """Inside it the checkpoints of a run are copied to the address soon after they are written, and at its end.

        What the address refuses is tried again; a run that goes on here is not ended by it.
        """
        ended, refused = threading.Event(), False

        def attempt() -> None:
            nonlocal refused
            try:
                self._mirror(run)
                refused = False
            except Exception as error:  # whatever the file system of an address raises
                if not refused:
                    print(f"run {run}: checkpoint not copied to {self.root}: {error}", file=sys.stderr, flush=True)
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
                part = f"{self._unfinished(run)}/{name}.part"  # whoever is killed here leaves no half checkpoint
                self.system.put_file(str(store.unfinished(run) / name), part)
                self.system.mv(part, f"{self._unfinished(run)}/{name}")
        except FileNotFoundError:
            return  # a newer one took its place meanwhile; the next look finds that
        for name in there - here if here else ():
            self.system.rm_file(f"{self._unfinished(run)}/{name}")

    def _unfinished(self, run: str) -> str:
        return f"{self.root}/{run}.unfinished"
