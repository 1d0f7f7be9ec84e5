"""Runs side by side: all are made, one that fails leaves the others alone, and the threads are divided."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from normbench.system import side_by_side as jobs
from normbench.system.errors import UserError


def note(folder: Path, name: str) -> None:
    total = torch.ones(200, 200) @ torch.ones(200, 200)
    (folder / name).write_text(f"{torch.get_num_threads()} {jobs.beside} {total[0, 0]:.0f}")


def fail(kind: type[BaseException]) -> None:
    raise kind("on purpose")


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.skipif(sys.platform != "linux", reason="runs are side by side on Linux alone")
def test_all_are_made_with_their_share_of_threads(tmp_path: Path):
    jobs.side_by_side([functools.partial(note, tmp_path, str(i)) for i in range(3)], "cpu", 2)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {str(i): "2 2 200" for i in range(3)}
    assert torch.get_num_threads() == 4
    assert jobs.beside == 1


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("kind", [UserError, RuntimeError])
@pytest.mark.skipif(sys.platform != "linux", reason="runs are side by side on Linux alone")
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


@pytest.mark.usefixtures("four_threads")
@pytest.mark.skipif(sys.platform != "linux", reason="runs are side by side on Linux alone")
def test_a_process_that_is_killed_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    killed = functools.partial(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SystemExit):
        jobs.side_by_side([killed, functools.partial(note, tmp_path, "0")], "cpu", 1)
    assert "a process was ended by signal 9 (out of memory?)" in capfd.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_one_after_the_other_on_a_gpu(tmp_path: Path):
    jobs.side_by_side([functools.partial(note, tmp_path, str(i)) for i in range(2)], "cuda", 2)
    assert {p.read_text().split()[1] for p in tmp_path.iterdir()} == {"1"}
