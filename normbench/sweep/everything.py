"""`normbench results`, which `make results` calls: every result of the suite, on all cores, without repeated imports.

It gives what `normbench check --refresh` and `dvc repro` give one after the other. On a CPU under Linux it first trains
what is missing as a sweep, and the stages are forked from this process (see `normbench.system.fork_server`), because
importing torch takes as long as a small stage's work.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from normbench.system import preemption, stage
from normbench.system.errors import UserError
from normbench.system.fork_server import Server

REPRO = "normbench.sweep.repro"
FIRST = ("normbench.suite.check", "normbench.sweep.command")  # what `prepare` needs; each stage brings what it needs


def make() -> None:
    """Makes every result. Exits with the code of what failed. Raises UserError without DVC."""
    if importlib.util.find_spec("dvc") is None:
        raise UserError("DVC is not installed here; without it, `normbench sweep` trains the runs of the suite")
    try:
        server = Server()
    except OSError:
        prepare(sweeps=False)
        code = subprocess.run([sys.executable, "-m", REPRO]).returncode
        if code != 0:
            raise SystemExit(code) from None
        return
    preemption.watch()
    signal.signal(signal.SIGINT, lambda number, frame: None)  # A terminal sends it to the others too, and they end.
    with server, repro_ahead() as begin:
        if os.getcwd() not in sys.path:  # as it is for `python -m`
            sys.path.insert(0, os.getcwd())
        for name in FIRST:
            importlib.import_module(name)
        prepared = server.fork(lambda: stage.guarded(prepare))
        names = importlib.import_module("normbench.suite.names").names
        names()  # While the other checks, this reads the files of methods, models, sources, corruptions and scores.
        run(server, prepared)
        server.declines = server.until(server.fork(is_for_gpu)) != 0
        run(server, begin())


def is_for_gpu() -> None:
    """Exits with 1 if the stages work on a GPU. To be called in a forked process, which may look for one.

    A process that has imported what `fid` needs may have found a GPU, and then those that are forked from it have none.
    """
    from normbench.system import device as devices

    raise SystemExit(devices.choose() != "cpu")


@contextlib.contextmanager
def repro_ahead() -> Iterator[Callable[[], int]]:
    """A context with a function that begins `dvc repro`, which imports DVC meanwhile, and returns its process."""
    theirs, ours = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", REPRO, str(theirs)],
        pass_fds=[theirs],
        preexec_fn=functools.partial(preemption.end_with, os.getpid()),
    )
    os.close(theirs)

    with open(ours, "wb", buffering=0) as pipe:

        def begin() -> int:
            pipe.write(b"1")
            return process.pid

        yield begin


def run(server: Server, process: int) -> None:
    """Serves until a child process ends. Exits with its code unless that is 0, and ends it if this process is ended."""
    try:
        code = server.until(process)
    except BaseException:
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        raise
    if code != 0:
        raise SystemExit(code if code > 0 else 128 - code)


def prepare(sweeps: bool = True) -> None:
    """Checks params.yaml and prints what has changed; then trains the missing runs of the suite on all cores of a CPU.

    A GPU is left to one run after the other, as only then the tables have the speed of each.
    """
    from normbench.suite import check
    from normbench.sweep import command
    from normbench.system import device as devices
    from normbench.system import ranks

    checked = check.check(refresh=True)
    check.tell(checked)
    if sweeps and ranks.wanted() == 1 and devices.choose() == "cpu" and not command.is_complete(checked.resolved):
        command.train(checked.resolved)
