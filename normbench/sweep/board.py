"""The progress of many runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from normbench.runs.run import Run
from normbench.system.progress import duration
from normbench.system.text import clean, say

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

STATES = ("running", "failed", "stopped", "elsewhere", "waiting", "done")  # in the order in which the table keeps rows
PLAIN_INTERVAL = 10.0  # seconds between two plain lines about what is running
LIVE_INTERVAL = 0.25  # seconds between two updates of the live table


@dataclass
class Row:
    """A run on the board.

    share: the finished part, 0..1. fields: epoch, loss and speed, or how the run ended. began: when it began to run, in
    seconds of the monotonic clock.
    """

    run: Run
    state: str = "waiting"
    share: float = 0.0
    fields: str = ""
    began: float = 0.0


class Board:
    """A context that shows the progress of runs.

    `tell` sets the state of a run; `tick` must be called a few times per second. stream: where to write, by default
    stderr.
    """

    def __init__(self, suite: list[Run], stream: TextIO | None = None):
        self.rows = {run.id: Row(run) for run in suite}
        self.stream = stream if stream is not None else sys.stderr
        self.started = self.shown = time.monotonic()
        self.live: Live | None = None

    def __enter__(self) -> Board:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            # No thread and no redirection of stdout, because this process forks and its children print.
            console = Console(file=self.stream)
            self.live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            self.live.stop()

    def tell(self, run: str, state: str, share: float | None = None, fields: str | None = None) -> None:
        """Sets the state of a run, one of `STATES`. Without a live table, the end of a run is printed as a line."""
        row = self.rows[run]
        changed, row.state = row.state != state, state
        row.share = row.share if share is None else share
        row.fields = row.fields if fields is None else fields
        if changed and state == "running":
            row.began = time.monotonic()
        if changed and self.live is None and state in ("done", "failed", "stopped"):
            taken = f" ({duration(time.monotonic() - row.began)})" if row.began else ""
            say(f"[{self.ended()}/{len(self.rows)}] {row.run.title}: {row.fields or state}{taken}", to=self.stream)
            self.stream.flush()

    def note(self, text: str) -> None:
        """Prints text of several lines that stays above the table."""
        lines = [clean(line) for line in text.split("\n")]
        if self.live is not None:
            self.live.console.print("\n".join(lines), markup=False, highlight=False)
        else:
            say(*lines, to=self.stream)

    def tick(self) -> None:
        """Updates the table, or prints a plain line, if enough time has passed."""
        now = time.monotonic()
        if self.live is not None:
            if now - self.shown >= LIVE_INTERVAL:
                self.shown = now
                self.live.update(self.table(), refresh=True)
        elif now - self.shown >= PLAIN_INTERVAL:
            self.shown = now
            running = [f"{row.run.title}: {row.fields}" for row in self.rows.values() if row.state == "running"]
            say("; ".join([self.summary(), *running]), to=self.stream)

    def count(self, state: str) -> int:
        """Returns the number of runs in a state."""
        return sum(row.state == state for row in self.rows.values())

    def ended(self) -> int:
        """Returns the number of runs that are done, failed or stopped."""
        return sum(self.count(state) for state in ("done", "failed", "stopped"))

    def summary(self) -> str:
        """Returns e.g. `3 done, 2 running, 7 waiting, 2 min 5 s left`."""
        counts = [f"{self.count(state)} {state}" for state in reversed(STATES) if self.count(state)]
        share = sum(row.share for row in self.rows.values() if row.state in ("done", "running"))
        rest = len(self.rows) - self.count("failed") - self.count("stopped") - share
        left = (time.monotonic() - self.started) * rest / share if share else float("inf")
        return ", ".join([*counts, *([f"{duration(left)} left"] if rest else [])])

    def table(self) -> Table:
        """Returns the live table, with as many rows as fit on the terminal."""
        from rich.table import Table
        from rich.text import Text

        height = self.live.console.size.height if self.live is not None else 0
        table = Table(box=None, padding=(0, 2, 0, 0), caption=self.summary(), caption_justify="left")
        for column in ("run", "state", "", "progress"):
            table.add_column(column, no_wrap=True)
        room = max(3, height - 4)
        ordered = sorted(self.rows.values(), key=lambda row: STATES.index(row.state))[:room]
        shown = {row.run.id for row in ordered}
        for row in self.rows.values():
            if row.run.id in shown:
                bar = "#" * round(12 * row.share) + "." * (12 - round(12 * row.share))
                texts = row.run.title, row.state, bar, row.fields.partition("\n")[0]
                table.add_row(*(Text(clean(text)) for text in texts))  # not markup, which has colours and links
        return table
