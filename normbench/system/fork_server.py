"""Runs stages in processes that are forked from one that has imported everything, which takes seconds.

While a command serves, the environment variable `fork_client.SERVER` names its socket. A stage that finds it there (see
`fork_client`) hands over its arguments, environment, and standard streams, passes on its signals, and exits with the
code of the forked process. The server declines, so that the stage runs by itself, where that could make a difference:
if a file of the package has changed since, or if the stage has other surroundings, such as another folder, Python,
environment or limits. The server imports no code of the user's own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from normbench.system import preemption
from normbench.system.fork_client import FORWARDED, NO, SERVER, YES, surroundings
from normbench.system.text import complain

LARGEST = 1 << 20  # bytes of a request
STREAMS = 3
CHECKOUT = Path(__file__).resolve().parents[2]


def code_files() -> dict[str, tuple[int, int, int]]:
    """Returns what tells whether a source file of the stages or of the package has changed, by its path."""
    found = {}
    for folder in ("normbench", "stages"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            status = path.stat()
            found[str(path)] = status.st_mtime_ns, status.st_size, status.st_ino
    return found


class Server:
    """A context in which stages that this process starts, itself or through DVC, are forked from it.

    It begins before the import of what the stages need. `declines` lets all of them run by themselves. Raises OSError
    if this system cannot do so.
    """

    def __init__(self) -> None:
        self.declines = False
        if sys.platform != "linux":
            raise OSError("processes are forked on Linux alone")
        os.close(os.pidfd_open(os.getpid()))  # Kernels before 5.3 do not have it.
        self.known = code_files()
        self.surroundings = json.loads(json.dumps(surroundings()))
        self.clients: dict[int, socket.socket] = {}  # by the id of the process that runs the stage
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.folder = tempfile.mkdtemp(prefix="normbench-")  # no other user may enter it
        try:
            self.listener.bind(os.path.join(self.folder, "stages"))
            self.listener.listen()
        except OSError:
            self._close()
            raise

    def __enter__(self) -> Server:
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        os.environ[SERVER] = os.path.join(self.folder, "stages")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the stages that still run, which save their state first."""
        os.environ.pop(SERVER, None)
        for process in self.clients:
            os.kill(process, signal.SIGTERM)
        while self.clients:
            self._ended(next(iter(self.clients)))
        self._close()

    def until(self, process: int) -> int:
        """Serves until a child process of this one ends, and returns its exit code; negative for a signal."""
        codes: list[int] = []
        descriptor = os.pidfd_open(process)

        def end() -> None:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

        self.selector.register(descriptor, selectors.EVENT_READ, end)
        try:
            while not codes:
                for key, _ in self.selector.select():
                    key.data()
        finally:
            self.selector.unregister(descriptor)
            os.close(descriptor)
        return codes[0]

    def fork(self, work: Callable[[], object]) -> int:
        """Starts a process that calls `work` as the main program of a process does; returns its id."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            _work(lambda: self._apart(parent, work))
        return process

    def _apart(self, parent: int, work: Callable[[], object]) -> None:
        """In the forked process: it ends with its parent, and has nothing to do with the clients."""
        for number in FORWARDED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        preemption.end_with(parent)
        self.selector.close()
        self.listener.close()
        for client in self.clients.values():
            client.close()
        work()

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        message, streams, _, _ = socket.recv_fds(client, LARGEST, STREAMS)
        try:
            request = json.loads(message)
            if len(streams) == STREAMS and self._is_fit(request):
                _import(request["module"])
                process = self.fork(lambda: _stage(request, streams, client))
                descriptor = os.pidfd_open(process)
                self.clients[process] = client
                self.selector.register(client, selectors.EVENT_READ, lambda: self._heard(process))
                self.selector.register(descriptor, selectors.EVENT_READ, lambda: self._ended(process, descriptor))
                _send(client, YES)
            else:
                _send(client, NO)
                client.close()
        except (OSError, ValueError, ImportError):  # Then the client runs the stage.
            client.close()
        finally:
            for stream in streams:
                os.close(stream)

    def _is_fit(self, request: dict[str, Any]) -> bool:
        return (
            not self.declines
            and str(request["module"]).startswith("stages.")
            and request["surroundings"] == self.surroundings
            and code_files() == self.known
        )

    def _heard(self, process: int) -> None:
        """Passes on a signal; if the client has ended, so does the stage."""
        if process not in self.clients:
            return  # It has ended in this moment.
        try:
            message = self.clients[process].recv(32)
        except OSError:
            message = b""
        if not message:
            self.selector.unregister(self.clients[process])
        os.kill(process, int(message or signal.SIGTERM))

    def _ended(self, process: int, descriptor: int | None = None) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        client = self.clients.pop(process)
        if descriptor is not None:
            self.selector.unregister(descriptor)
            os.close(descriptor)
        if client in self.selector.get_map():
            self.selector.unregister(client)
        _send(client, str(code).encode())
        client.close()

    def _close(self) -> None:
        self.selector.close()
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _send(client: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):  # It has been killed.
        client.send(message)


def _import(module: str) -> None:
    """Imports what a stage needs, once for all that are forked afterwards, and leaves it to be run as a program."""
    importlib.import_module(module)
    del sys.modules[module]


def _stage(request: dict[str, Any], streams: list[int], client: socket.socket) -> None:
    """Runs a stage with what its client has: streams, variables and arguments."""
    client.close()
    # In a group of its own, so that an interrupt by the terminal comes once, through the client.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # Such a group may write to a terminal, however that is set.
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for output in (sys.stdout, sys.stderr):
        # Python's own streams have `reconfigure`, which their declared type does not know.
        output.reconfigure(line_buffering=output.isatty() or output is sys.stderr)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _work(work: Callable[[], object]) -> None:
    """Calls `work` and exits as Python does, without the time that it takes to forget what was imported."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            code = error.code or 0
        else:
            complain(str(error.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code & 0xFF)
