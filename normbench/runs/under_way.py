"""How far a run is that a process trains now: a small file for whoever shows it, which no result depends on."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from normbench.runs import store
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.quantities import Accuracy
from normbench.system.schema import NotNegativeReal, Strict

INTERVAL = 1.0  # least seconds between two notes of a run
FRESH = 10.0  # seconds in which a note says by itself that its run is trained


class Note(Strict):
    """How far the training of a run was when it was noted.

    share: the finished part, 0..1. text: epoch, loss and speed. first: the share at its first note, which is more than
    0 if it goes on from a checkpoint. seconds: since that note.
    """

    share: Accuracy
    text: str
    first: Accuracy
    seconds: NotNegativeReal


class Notes:
    """Notes how far a run is, for `normbench.system.progress.Progress`. Nothing happens where it cannot be written."""

    def __init__(self, run: str):
        self.path = path(run)
        self.began = self.first = self.noted = -1.0

    def __call__(self, share: float, text: str) -> None:
        now = time.monotonic()
        if self.began < 0:
            self.began, self.first = now, share
        elif now - self.noted < INTERVAL:
            return
        self.noted = now
        note = Note(share=min(share, 1.0), text=text, first=min(self.first, 1.0), seconds=now - self.began)
        made = self.path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(note.model_dump_json(), encoding="utf-8")  # Not flushed to disk: a crash may lose it.
            made.replace(self.path)

    def forget(self) -> None:
        """Removes the note of a run that has ended."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def path(run: str) -> Path:
    """Returns where the note of a run lies."""
    return layout.store() / ".progress" / f"{run}.json"


def note(run: str) -> tuple[Note, bool] | None:
    """Returns how far a run is that is not finished, and whether it is trained now; None if nothing is noted.

    A note remains where a process was killed, or its machine stopped.
    """
    try:
        found = Note.read(path(run))
        fresh = time.time() - path(run).stat().st_mtime < FRESH
    except (OSError, UserError):
        return None
    return found, fresh or store.busy(run)
