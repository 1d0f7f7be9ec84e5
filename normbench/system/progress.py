"""Progress of long work: a live bar on a terminal, or a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from normbench.system.text import clean, say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_INTERVAL = 5.0  # seconds between two plain lines

plain = False  # whether to print plain lines on a terminal too, for processes that share one
# Called with the finished share (0 to 1) and the fields, instead of any display; for a process whose parent shows it.
listener: Callable[[float, str], None] | None = None


@contextmanager
def silenced() -> Iterator[None]:
    """A context in which no progress is shown."""
    global listener
    before, listener = listener, lambda share, fields: None
    try:
        yield
    finally:
        listener = before


class Progress:
    """A context that shows a title, the finished part of `total`, free text such as the loss, and the remaining time.

    stream: where to write, stderr by default. also: is called at each update, with the finished share (0 to 1) and the
    text.

    >>> with Progress("corrupt digits", total=19) as progress:
    ...     progress.update(3, fields="gaussian_noise")
    """

    def __init__(
        self, title: str, total: float, stream: TextIO | None = None, also: Callable[[float, str], None] | None = None
    ):
        self.title, self.total, self.also = title, total, also
        self.stream = stream if stream is not None else sys.stderr
        self.started = self.printed = time.monotonic()
        self.live: RichProgress | None = None

    def __enter__(self) -> Progress:
        if self.stream.isatty() and not plain and listener is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self.live = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[fields]}", markup=False),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
                transient=True,
            )
            self.live.start()
            self.bar = self.live.add_task(clean(self.title), total=self.total, fields="")
        return self

    def update(self, done: float, fields: str = "") -> None:
        """Shows that `done` of `total` is finished, with the text `fields` beside it."""
        if self.also is not None:
            self.also(done / self.total, fields)
        if listener is not None:
            listener(done / self.total, fields)
        elif self.live is not None:
            self.live.update(self.bar, completed=done, fields=clean(fields))
        elif time.monotonic() - self.printed >= PLAIN_INTERVAL:
            self.printed = time.monotonic()
            rest = (self.printed - self.started) * (self.total - done) / done if done else float("inf")
            say(f"{self.title}: {fields}, {duration(rest)} left", to=self.stream)

    def close(self, summary: str) -> None:
        """Ends the display and prints one final line: the title, the summary and the elapsed time."""
        self._stop()
        if listener is not None:
            listener(1.0, summary)
            return
        taken = duration(time.monotonic() - self.started)
        say(f"{self.title}: {summary} ({taken})", to=self.stream)

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def duration(seconds: float) -> str:
    """Returns seconds as text: `12 s`, `3 min 20 s` or `2 h 5 min`; `unknown time` for infinity."""
    if seconds == float("inf"):
        return "unknown time"
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
