"""Stages forked from one process: they do as they would by themselves, and run by themselves where that could differ."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from normbench.system import fork_client, fork_server, preemption

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")

SERVE = """
import subprocess, sys
from normbench.system import preemption
from normbench.system.fork_server import Server

preemption.watch()
with Server() as server:
    raise SystemExit(server.until(subprocess.Popen(sys.argv[1:]).pid))
"""
# A stage that notes who runs it, and does what its option says.
PROBE = """
import json, os, signal, sys, time
from pathlib import Path
from normbench.system import plugins, stage

def probe(what):
    noted = {"pid": os.getpid(), "parent": os.getppid(), "argv": sys.argv, "folder": os.getcwd()}
    noted |= {"name": os.environ.get("DVC_STAGE"), "group": os.getpgid(0)}
    noted |= {"forked": "Server" in Path("/proc/self/cmdline").read_text()}  # the code of what it is forked from
    Path(os.environ["NOTES"]).write_text(json.dumps(noted))
    if what == "read":
        print(sys.stdin.read())
        print("to stderr", file=sys.stderr)
    if what == "exit":
        raise SystemExit(3)
    if what == "words":
        raise SystemExit("in words")
    if what == "fail":
        raise ValueError("on purpose")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "own":
        print(plugins.imported("own.py").VALUE)
    if what == "sleep":
        time.sleep(600)

if __name__ == "__main__":
    stage.run(probe, "what")
"""
COMMAND = [sys.executable, "-m", "stages.probe", "--what"]


class Checkout:
    """A copy of the code that forks, with a stage of its own, and what it does."""

    def __init__(self, path: Path):
        self.path, self.notes = path, path / "notes.json"
        shutil.copytree(ROOT / "normbench/system", path / "normbench/system")
        shutil.copy(ROOT / "normbench/__init__.py", path / "normbench")
        (path / "stages").mkdir()
        shutil.copy(ROOT / "stages/__init__.py", path / "stages")
        (path / "stages/probe.py").write_text(PROBE)
        self.environment = os.environ | {"PYTHONPATH": str(path), "NOTES": str(self.notes)}

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a server that serves until a command ends."""
        return subprocess.Popen(
            [sys.executable, "-c", SERVE, *command],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, *command: str, given: str | None = None) -> tuple[int, str, str]:
        """The exit code of a command beside a server, which exits with it, and what it wrote to stdout and stderr."""
        process = self.start(*command, stdin=subprocess.PIPE)
        out, error = process.communicate(given, timeout=120)
        return process.returncode, out, error

    def noted(self) -> dict[str, Any]:
        """What the stage has noted, once it has."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads(self.notes.read_text())
            time.sleep(0.02)
        raise AssertionError("no stage has run")

    def was_forked(self) -> bool:
        return self.noted()["forked"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_a_stage_has_what_its_client_has(checkout: Checkout) -> None:
    code, out, error = checkout.run(*shell(f"DVC_STAGE=one {' '.join(COMMAND)} read"), given="given")
    assert (code, out, error) == (0, "given\n", "to stderr\n")
    assert checkout.was_forked()
    noted = checkout.noted()
    assert noted["argv"] == [str(checkout.path / "stages/probe.py"), "--what", "read"]
    assert noted["folder"] == str(checkout.path)
    assert noted["name"] == "one"


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("nothing", 0, ""),
        ("exit", 3, ""),
        ("words", 1, "in words\n"),
        ("fail", 1, "ValueError: on purpose\n"),
        ("die", 128 + signal.SIGKILL, "Killed\n"),
    ],
)
def test_it_ends_as_it_would_by_itself(what: str, code: int, text: str, checkout: Checkout) -> None:
    command = shell(f"{' '.join(COMMAND)} {what}; exit $?")
    found, out, error = checkout.run(*command)
    assert (found, out) == (code, "")
    assert error.endswith(text)
    assert checkout.was_forked()
    alone = subprocess.run(command, cwd=checkout.path, env=checkout.environment, capture_output=True, text=True)
    assert (alone.returncode, alone.stdout) == (code, "")
    assert alone.stderr.endswith(text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_prompt_that_a_shell_drops_makes_no_difference(checkout: Checkout) -> None:
    """An activated virtual environment exports its prompt, which bash drops where it is not interactive."""
    checkout.environment |= {"PS1": "(.venv) ", "PS2": "> "}
    code, out, _ = checkout.run("bash", "-c", f'echo "[$PS1]"; {" ".join(COMMAND)} nothing')
    assert (code, out) == (0, "[]\n")
    assert checkout.was_forked()


def test_a_wrong_option_is_told_by_the_stage(checkout: Checkout) -> None:
    code, _, error = checkout.run(sys.executable, "-m", "stages.probe", "--that", "x")
    assert code == 2
    assert "probe.py: error: the following arguments are required: --what" in error


@pytest.mark.parametrize(
    "before",
    [
        "MALLOC_ARENA_MAX=2",
        "OMP_NUM_THREADS=7",
        "nice -n 1",
        "umask 027;",
        "ulimit -n 200;",
        "cd stages;",
        "taskset -c 0" if len(os.sched_getaffinity(0)) > 1 and shutil.which("taskset") else "nice -n 2",
    ],
)
def test_other_surroundings_run_it_by_itself(before: str, checkout: Checkout) -> None:
    code, _, error = checkout.run(*shell(f"{before} {' '.join(COMMAND)} nothing"))
    assert code == 0, error
    assert not checkout.was_forked()


def test_another_python_runs_it_by_itself(checkout: Checkout) -> None:
    code, _, error = checkout.run(sys.executable, "-O", *COMMAND[1:], "nothing")
    assert code == 0, error
    assert not checkout.was_forked()
    code, _, error = checkout.run(*shell(f"PYTHONHASHSEED=5 {' '.join(COMMAND)} nothing"))
    assert code == 0, error
    assert not checkout.was_forked()


def test_what_says_nothing_to_a_stage_is_passed_on(checkout: Checkout) -> None:
    code, _, error = checkout.run(*shell(f"PATH=$PATH:/here DVC_ROOT=/there {' '.join(COMMAND)} nothing"))
    assert code == 0, error
    assert checkout.was_forked()


@pytest.mark.parametrize("name", ["normbench/system/text.py", "stages/probe.py", "normbench/new.py"])
def test_changed_code_is_not_served(name: str, checkout: Checkout) -> None:
    checkout.run(*shell(f"echo '# changed' >> {name}; {' '.join(COMMAND)} nothing"))
    assert not checkout.was_forked()


def test_code_of_ones_own_is_read_for_each_stage(checkout: Checkout) -> None:
    (checkout.path / "own.py").write_text("VALUE = 1")
    own = f"{' '.join(COMMAND)} own"
    code, out, error = checkout.run(*shell(f"{own}; echo 'VALUE = 22' > own.py; {own}"))
    assert code == 0, error
    assert out == "1\n22\n"
    assert checkout.was_forked()


def test_a_stage_that_cannot_be_imported_says_so_itself(checkout: Checkout) -> None:
    (checkout.path / "stages/broken.py").write_text("import nothing_of_this_name")
    code, _, error = checkout.run(sys.executable, "-m", "stages.broken")
    assert code == 1
    assert "No module named 'nothing_of_this_name'" in error


@pytest.mark.parametrize("there", ["nothing", "a closed socket", "one that hangs up"])
def test_without_an_answer_it_runs_by_itself(there: str, checkout: Checkout) -> None:
    place = checkout.path / "socket"
    environment = checkout.environment | {fork_client.SERVER: str(place)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        if there != "nothing":
            listener.bind(str(place))
            listener.listen()
        if there == "a closed socket":
            listener.close()
        process = subprocess.Popen([*COMMAND, "nothing"], cwd=checkout.path, env=environment)
        if there == "one that hangs up":
            listener.settimeout(60)
            listener.accept()[0].close()
        assert process.wait(60) == 0
    assert checkout.noted()["pid"] == process.pid


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, preemption.EXIT_CODE), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_signals_are_passed_on(number: signal.Signals, code: int, checkout: Checkout) -> None:
    server = checkout.start(*shell(f"echo $$ > client; exec {' '.join(COMMAND)} sleep"))
    stage = checkout.noted()
    assert stage["parent"] == server.pid
    os.kill(int((checkout.path / "client").read_text()), number)
    server.communicate(timeout=60)
    assert server.returncode == code
    assert not alive(stage["pid"])


def test_a_stage_ends_with_its_client(checkout: Checkout) -> None:
    server = checkout.start(*shell(f"echo $$ > client; exec {' '.join(COMMAND)} sleep"))
    stage = checkout.noted()
    os.kill(int((checkout.path / "client").read_text()), signal.SIGKILL)
    assert has_ended(stage["pid"])
    server.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stage_and_its_client_end_with_the_server(number: signal.Signals, checkout: Checkout) -> None:
    server = checkout.start(*shell(f"{' '.join(COMMAND)} sleep; echo $? > code"))
    stage = checkout.noted()
    server.send_signal(number)
    assert has_ended(stage["pid"])
    deadline = time.monotonic() + 30
    while not (checkout.path / "code").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    server.wait(60)
    time.sleep(0.1)
    assert (checkout.path / "code").read_text() == f"{preemption.EXIT_CODE}\n"
    assert server.returncode == (preemption.EXIT_CODE if number == signal.SIGTERM else -signal.SIGKILL)


def test_a_terminal_interrupts_it_once(checkout: Checkout) -> None:
    """It is in a group of its own, and the client, which is in that of the terminal, passes the signal on."""
    server = checkout.start(*COMMAND, "sleep")
    stage = checkout.noted()
    assert stage["group"] == stage["pid"] != server.pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(stage["pid"], signal.SIGKILL)
    server.communicate(timeout=60)


def test_nobody_else_can_enter_the_folder_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fork_client.SERVER, raising=False)
    with fork_server.Server() as server:
        folder = Path(server.folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.environ[fork_client.SERVER] == str(folder / "stages")
    assert fork_client.SERVER not in os.environ
    assert not folder.exists()


def test_no_server_where_a_socket_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket has at most 107 bytes."""
    (tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr(fork_server.tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    with pytest.raises(OSError):
        fork_server.Server()
    assert list((tmp_path / ("x" * 100)).iterdir()) == []


def test_the_client_imports_little(checkout: Checkout) -> None:
    """It runs before each stage, and nothing of what it imports may take long."""
    code = "import sys, stages; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=checkout.path, env=checkout.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"numpy", "torch", "pydantic", "rich", "yaml", "ruamel", "argparse"} & set(done.stdout.split())
