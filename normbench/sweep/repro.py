"""`dvc repro` without DVC's hints, as a process that can import DVC while something else is done.

`python -m normbench.sweep.repro DESCRIPTOR` begins when a byte can be read from a descriptor, and ends if none can.
Without a descriptor it begins at once.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from typing import Any

HINT = "Use `dvc push`"
AHEAD = ("dvc.commands.repro", "dvc.repo.index", "dvc.repo.reproduce", "scmrepo.git")


def main() -> None:
    """Imports DVC, waits if it has to, and does what `dvc repro` does."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Nothing has begun.
    dvc = importlib.import_module("dvc.cli").main

    with contextlib.suppress(ImportError, AttributeError):  # Without this, a version of DVC only takes longer later.
        for name in AHEAD:
            importlib.import_module(name)
        importlib.import_module("dvc.cli.parser").get_main_parser()
        silence_hints()
    if not sys.argv[1:] or is_told(int(sys.argv[1])):
        signal.signal(signal.SIGINT, interrupt)
        sys.argv[:] = ["dvc", "repro"]
        raise SystemExit(dvc(sys.argv[1:]))


def is_told(descriptor: int) -> bool:
    """Waits until a byte can be read from a descriptor, or none can any more; returns whether it was read."""
    told = os.read(descriptor, 1)
    os.close(descriptor)
    return bool(told)


def silence_hints() -> None:
    """Makes DVC leave out what one could do next: to add files to git, and to push them.

    Errors, warnings and the names of stages are as ever.
    """
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)
    ui = importlib.import_module("dvc.ui").ui
    write = ui.write

    def write_all_but(*objects: object, **given: Any) -> None:
        if not str(objects[0] if objects else "").startswith(HINT):
            write(*objects, **given)

    ui.write = write_all_but


if __name__ == "__main__":
    main()
