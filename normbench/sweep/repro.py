"""`dvc repro` as a process that imports DVC while something else is done, and begins when it is told to.

`python -m normbench.sweep.repro DESCRIPTOR` begins when a byte can be read from a descriptor, and ends if none can.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys

AHEAD = ("dvc.commands.repro", "dvc.repo.index", "dvc.repo.reproduce", "scmrepo.git")


def main() -> None:
    """Imports DVC, waits, and does what `dvc repro` does."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Nothing has begun.
    dvc = importlib.import_module("dvc.cli").main

    with contextlib.suppress(ImportError, AttributeError):  # Without this, a version of DVC only takes longer later.
        for name in AHEAD:
            importlib.import_module(name)
        importlib.import_module("dvc.cli.parser").get_main_parser()
    descriptor = int(sys.argv[1])
    told = os.read(descriptor, 1)
    os.close(descriptor)
    if told:
        signal.signal(signal.SIGINT, interrupt)
        sys.argv[:] = ["dvc", "repro"]
        raise SystemExit(dvc(sys.argv[1:]))


if __name__ == "__main__":
    main()
