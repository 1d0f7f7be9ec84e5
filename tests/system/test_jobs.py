"""Runs side by side: all are made, one that fails leaves the others alone, and each has the threads of its recipe."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normbench.system import side_by_side as jobs
from normbench.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="runs are side by side on Linux alone")


def note(folder: Path, name: str) -> None:
    total = torch.ones(200, 200) @ torch.ones(200, 200)
    (folder / name).write_text(f"{torch.get_num_threads()} {jobs.beside} {total[0, 0]:.0f}")


def fail(kind: type[BaseException]) -> None:
    raise kind("on purpose")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "cores", lambda: 4)


THREADS = """
import functools, sys
from pathlib import Path
import torch
from normbench.system import side_by_side as jobs
from tests.system.test_jobs import note

jobs.cores = lambda: 4
torch.set_num_threads(3)
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
jobs.side_by_side([functools.partial(note, folder, str(i)) for i in range(3)], "cpu", threads)
print(torch.get_num_threads(), jobs.beside)
"""


@pytest.mark.parametrize(("threads", "beside"), [(1, 3), (2, 2)])
@linux
def test_each_has_its_threads_however_many_run_beside_it(threads: int, beside: int, tmp_path: Path):
    """In a fresh process: one that has used threads, as that of the tests may have, cannot be forked."""
    command = [sys.executable, "-c", THREADS, str(tmp_path), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 1\n"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {str(i): f"{threads} {beside} 200" for i in range(3)}


@pytest.mark.usefixtures("four_cores")
@linux
def test_processes_are_as_many_as_there_are_cores_for():
    """Four here, by the fixture."""
    assert [jobs.processes_for("cpu", threads, 9) for threads in (1, 2, 3, 4, 8)] == [4, 2, 1, 1, 1]
    assert jobs.processes_for("cpu", 1, 2) == 2  # no more than tasks
    assert jobs.processes_for("cpu", 1, 0) == 1
    assert jobs.processes_for("cuda", 1, 9) == jobs.processes_for("mps", 1, 9) == 1


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("kind", [UserError, RuntimeError])
@linux
def test_a_failure_leaves_the_others_alone(
    kind: type[BaseException], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    tasks = [functools.partial(fail, kind), *(functools.partial(note, tmp_path, str(i)) for i in range(3))]
    with pytest.raises(SystemExit):
        jobs.side_by_side(tasks, "cpu", 1)
    assert len(list(tmp_path.iterdir())) == 3
    printed = capfd.readouterr().err
    assert "on purpose" in printed
    assert ("Traceback" in printed) == (kind is RuntimeError)


@pytest.mark.usefixtures("four_cores")
@linux
def test_a_process_that_is_killed_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    killed = functools.partial(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SystemExit):
        jobs.side_by_side([killed, functools.partial(note, tmp_path, "0")], "cpu", 1)
    assert "a process was ended by signal 9 (out of memory?)" in capfd.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_one_after_the_other_on_a_gpu(tmp_path: Path):
    jobs.side_by_side([functools.partial(note, tmp_path, str(i)) for i in range(2)], "cuda", 2)
    assert {p.read_text().split()[1] for p in tmp_path.iterdir()} == {"1"}
