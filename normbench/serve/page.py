"""The page: the report as it is on the disk, with a bar about the runs that are under way."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2

from normbench.serve.state import State
from normbench.system import layout

REPORT = layout.RESULTS / "report.html"
INTERVAL = 2000  # milliseconds between two looks of the page at the progress
END = b"</body>"


def page(state: State) -> bytes:
    """Returns the report, or a page that says that there is none yet, with the bar before the end of its body."""
    version, content = report()
    html = content or _template("empty.html.j2").render().encode()
    bar = _template("bar.html.j2").render(state=state, report=version, interval=INTERVAL).encode()
    before, end, after = html.rpartition(END)
    return before + bar + end + after if end else html + bar


def report() -> tuple[str | None, bytes]:
    """Returns what tells one version of the report from another, and its bytes; None and nothing without a report."""
    try:
        return version(), REPORT.read_bytes()
    except OSError:
        return None, b""


def version() -> str | None:
    """Returns what tells one version of the report from another; None without a report."""
    try:
        found = REPORT.stat()
    except OSError:
        return None
    return f"{found.st_mtime_ns}-{found.st_ino}-{found.st_size}"


@functools.cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)
