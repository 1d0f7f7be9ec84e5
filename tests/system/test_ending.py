"""No process goes on for nobody: children end when their parent does, whatever ended it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normbench.system import preemption

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

SIDE_BY_SIDE = """
import functools, os, time
from pathlib import Path
import torch
from normbench.system import preemption
from normbench.system import side_by_side as jobs

def sleep(name):
    Path(name).write_text(str(os.getpid()))
    time.sleep(600)

preemption.watch()
jobs.cores = lambda: 2
jobs.side_by_side([functools.partial(sleep, name) for name in ("one", "two")], "cpu", 1)
"""

# A sweep that calls a stage through DVC: the process between them knows of nothing.
THROUGH = """
from normbench.sweep import command
from normbench.system import preemption

preemption.watch()
command.call(["between"])
"""
BETWEEN = """
import subprocess, sys
from pathlib import Path
import os
Path("one").write_text(str(os.getpid()))
subprocess.run(f"{sys.executable} -m inner", shell=True)
"""
INNER = """
import os, time
from pathlib import Path
from normbench.system import stage

def sleep():
    Path("two").write_text(str(os.getpid()))
    time.sleep(600)

stage.run(sleep)
"""
PARENTS = {"side by side": SIDE_BY_SIDE, "a stage of a sweep": THROUGH}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@linux
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
@pytest.mark.parametrize("parent", PARENTS)
def test_children_end_with_their_parent(parent: str, number: signal.Signals, tmp_path: Path) -> None:
    """They would sleep for ten minutes, and are given ten seconds."""
    (tmp_path / "between.py").write_text(BETWEEN)
    (tmp_path / "inner.py").write_text(INNER)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", PARENTS[parent]]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    pids: list[int] = []
    try:
        deadline = time.monotonic() + 120
        while len(pids) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            texts = [path.read_text() for path in (tmp_path / "one", tmp_path / "two") if path.exists()]
            pids = [int(text) for text in texts if text]
        assert len(pids) == 2
        assert all(map(alive, pids))
        process.send_signal(number)
        process.wait(60)
        for _ in range(100):
            if not any(map(alive, pids)):
                break
            time.sleep(0.1)
        assert not any(map(alive, pids))
    finally:
        for pid in (process.pid, *pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_parent_that_has_ended_before(platform: str) -> None:
    code = (
        "import sys, time; from normbench.system import preemption\n"
        f"sys.platform = {platform!r}\n"
        "preemption.watch(); preemption.end_with(1 << 30); time.sleep(600)"
    )
    if platform == "linux" and sys.platform != "linux":
        pytest.skip("prctl is of Linux")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == preemption.EXIT_CODE


def test_elsewhere_a_thread_looks_after_the_parent(tmp_path: Path) -> None:
    child = (
        "import sys, time; from pathlib import Path; from normbench.system import preemption\n"
        "sys.platform = 'darwin'; import os\n"
        "preemption.end_with(os.getppid()); Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    process.kill()
    process.wait()
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.1)
    assert not alive(pid)
