"""Python processes for tests, forked from one that has imported torch and the package, which takes seconds each time.

`start` and `run` take what follows `python` on a command line. The forked process has the arguments, environment, folder,
streams and session of one that is started with them, one thread, and modules whose functions nobody has called; only the
digests of the package's code are known. Its command line in /proc is that of the process it is forked from. Where that
could make a difference, because what Python and libraries read when they are loaded is another, or the cores are, a
fresh process is started, unless the test is `surrounded`. A process whose PYTHONPATH is not this checkout, as those in a
clone, is forked from one that has imported the libraries alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
SERVE = ("-m", "tests.support.forks")
LARGEST = 1 << 18  # bytes of a request
STREAMS = 4  # of a request: standard input, output and error, and the socket for answers
# The beginnings of the names of variables that are read when Python, its libraries or an allocator are loaded.
LOADING = ("CUBLAS_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "OPENCV_", "PYTHON", "TORCH")
# What the commands, and DVC, import while they work, beside all modules of the package.
LIBRARIES = (
    *("cv2", "dvc.cli.parser", "dvc.repo", "matplotlib.pyplot", "optuna", "pandas", "pydantic", "ruamel.yaml"),
    *("scipy.stats", "sklearn.datasets", "torch._dynamo", "torchvision.utils", "typer"),
)


class Forked:
    """A process that was forked for a test, with what tests use of `subprocess.Popen`.

    stdin, stdout: its standard input, and its output and errors, if it was not given others. returncode: negative for
    a signal, None before `wait`.
    """

    def __init__(self, pid: int, answers: socket.socket, stdin: IO[str] | None = None, stdout: IO[str] | None = None):
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._answers = answers

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code. Raises TimeoutError."""
        if self.returncode is None:
            self._answers.settimeout(timeout)
            self.returncode = int(self._answers.recv(32))
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        """Returns the exit code, or None if the process has not ended."""
        with contextlib.suppress(BlockingIOError):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Ends the input. Returns what is left of the output, until every process that may write to it has ended.

        Kills it at the timeout.
        """
        assert self.stdout is not None
        if self.stdin is not None:
            self.stdin.close()
        watch = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        watch.daemon = True
        watch.start()
        with self.stdout:
            printed = self.stdout.read()
        self.wait()
        watch.cancel()
        return printed, None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _surroundings(environment: Mapping[str, str]) -> dict[str, Any]:
    """What a process must have as the one it is forked from has it."""
    variables = {name: value for name, value in environment.items() if name.startswith(LOADING)}
    variables.pop("PYTHONPATH", None)
    return variables | {"cores": sorted(os.sched_getaffinity(0))}


class Server:
    """Processes to fork from, with the surroundings of an environment: one has the libraries, one the package too."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment | {"PYTHONPATH": str(ROOT)}
        self.surroundings = _surroundings(environment)
        self.libraries, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([sys.executable, *SERVE], cwd=ROOT, env=self.environment, stdin=theirs)

    @functools.cached_property
    def package(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _forked(self.libraries, (*SERVE, "package"), ROOT, self.environment, theirs.fileno(), 1, 2)
        return ours

    def end(self) -> None:
        self.libraries.close()
        if "package" in vars(self):
            self.package.close()
        self.process.wait()


@functools.cache
def _usual() -> Server:
    """With the surroundings of this process. It ends with this process."""
    server = Server(dict(os.environ))
    atexit.register(server.end)
    return server


_others: list[Server] = []


@contextlib.contextmanager
def surrounded(environment: dict[str, str]) -> Iterator[None]:
    """Inside it, processes with the surroundings of an environment, and with the cores of now, are forked too."""
    if sys.platform != "linux":
        yield
        return
    server = Server(environment)
    _others.append(server)
    try:
        yield
    finally:
        _others.remove(server)
        server.end()


def _server(environment: Mapping[str, str]) -> socket.socket | None:
    """The socket of what a process with an environment may be forked from."""
    if sys.platform != "linux":
        return None
    wanted = _surroundings(environment)
    server = next((server for server in _others if server.surroundings == wanted), None) or _usual()
    if server.surroundings != wanted:
        return None
    return server.package if environment.get("PYTHONPATH") == str(ROOT) else server.libraries


def _forked(
    server: socket.socket, arguments: tuple[str, ...], cwd: Path, env: dict[str, str], *streams: int
) -> tuple[int, socket.socket]:
    """The id of a new process, and the socket that gets its exit code. streams: its input, output and errors."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps({"arguments": arguments, "folder": str(cwd), "environment": env})
    with theirs:
        socket.send_fds(server, [request.encode()], [*streams, theirs.fileno()])
    return int(ours.recv(32)), ours


def start(*arguments: str, cwd: Path, env: dict[str, str], has_input: bool = False) -> subprocess.Popen[str] | Forked:
    """Starts `python ARGUMENTS` in a session of its own; its output and errors are the `stdout` of what is returned.

    has_input: whether it has an input, the `stdin` of what is returned, which lasts until that is closed.
    """
    server = _server(env)
    if server is None:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    (its_input, to_it), (from_it, its_output) = os.pipe(), os.pipe()
    try:
        pid, answers = _forked(server, arguments, cwd, env, its_input, its_output, its_output)
    finally:
        os.close(its_input)
        os.close(its_output)
    stdin = os.fdopen(to_it, "w", encoding="utf-8")
    if not has_input:
        stdin.close()
    return Forked(pid, answers, stdin, os.fdopen(from_it, encoding="utf-8"))


def run(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` to its end, at most 10 minutes."""
    server = _server(env)
    if server is None:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as error,
    ):
        pid, answers = _forked(server, arguments, cwd, env, nothing.fileno(), out.fileno(), error.fileno())
        process = Forked(pid, answers)
        try:
            code = process.wait(600)
        finally:
            process.kill()
        printed = [(file.seek(0), file.read())[1] for file in (out, error)]
    return subprocess.CompletedProcess(arguments, code, *printed)


def serve(server: socket.socket, package: bool) -> None:
    """Forks for each request, until the other side is closed."""
    for name in LIBRARIES:
        importlib.import_module(name)
    if package:
        import normbench
        import stages  # noqa: F401

        for module in pkgutil.walk_packages(normbench.__path__, "normbench."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        compute_digests()
    path = [entry for entry in sys.path[1:] if entry != str(ROOT)]
    assert len(os.listdir("/proc/self/task")) == 1, "only a process of one thread may fork"
    gc.freeze()  # What is here is never freed, so that its memory stays shared.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, LARGEST, STREAMS)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(json.loads(message), descriptors, path)
        for descriptor in descriptors:
            os.close(descriptor)


def compute_digests() -> None:
    """Those of the stages, of all methods and of all models, which nearly every command needs."""
    from normbench.evaluation.registry import SCORES
    from normbench.methods import registry as methods
    from normbench.models import registry as models
    from normbench.suite import code
    from normbench.system.digests import one_reading

    with one_reading():
        code.of_stages({}, SCORES.names(), segmentation=True)
        for method in methods.names():
            code.method(method)
        for model in models.names():
            code.model(model)


def _attend(request: dict[str, Any], descriptors: list[int], path: list[str]) -> None:
    """Forks the process, and tells its id and then its exit code."""
    *streams, answers = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _work(request, streams, path)
    for stream in streams:
        os.close(stream)
    os.write(answers, str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(answers, "wb", buffering=0) as told:
        try:
            told.write(str(code).encode())
        finally:
            os._exit(0)


def _work(request: dict[str, Any], streams: list[int], path: list[str]) -> None:
    """Does what Python does with its arguments, and exits as it does."""
    code = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        of_user = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        option, *arguments = request["arguments"]
        sys.orig_argv = [sys.executable, option, *arguments]
        first = {"-c": "", "-m": os.getcwd()}.get(option, str(Path(option).parent))
        sys.path[:] = [first, *(entry for entry in of_user if entry), *path]
        importlib.invalidate_caches()
        if option == "-c":
            script, *arguments = arguments
            sys.argv = ["-c", *arguments]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(script, "<string>", "exec"), vars(main))
        elif option == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [option, *arguments]
            runpy.run_path(option, run_name="__main__")
        code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code & 0xFF)


if __name__ == "__main__":
    with open(os.devnull) as nothing:
        requests = os.dup(0)
        os.dup2(nothing.fileno(), 0)
    serve(socket.socket(fileno=requests), "package" in sys.argv)
