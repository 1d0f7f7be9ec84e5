"""A sweep trains every missing run once, equal to those of the stages, and survives failures and interrupts."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from normbench.runs.run import Run
from normbench.sweep import board, room
from normbench.sweep.cost import Cost
from tests.support import sample_runs
from tests.support.project import Project
from tests.support.suite_folder import PARAMS, SuiteFolder, records, same_outcome

linux = pytest.mark.skipif(sys.platform != "linux", reason="runs are side by side on Linux alone")


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """A folder whose data are there."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    folder.bind()
    return folder


@pytest.fixture
def folder(bound: SuiteFolder, tmp_path: Path) -> SuiteFolder:
    shutil.copytree(bound.path, tmp_path / "suite")
    return SuiteFolder(tmp_path / "suite")


@pytest.mark.slow
def test_equal_to_the_stages_bit_for_bit(folder: SuiteFolder):
    shutil.rmtree(folder.path / "build")  # a sweep makes the data ready itself
    printed = folder.run("normbench", "sweep", "--jobs", "2")
    assert "6 runs in the suite, 0 finished, 6 to train" in printed
    assert "[7/7]" in printed  # with the classifier of the FID
    for variant in ("batch_norm", "group_norm"):
        folder.run("stages.train", "--task", "small", "--variant", variant, NORMBENCH_STORE="by_stages")
    folder.run("stages.gan", "--task", "small-gan", "--variant", "batch_norm", NORMBENCH_STORE="by_stages")
    folder.run("stages.real", "--task", "small-gan", NORMBENCH_STORE="by_stages")
    folder.run("stages.fid", "--task", "small-gan", "--variant", "batch_norm", NORMBENCH_STORE="by_stages")
    swept, staged = records(folder.path / "runs"), records(folder.path / "by_stages")
    assert set(swept) == set(staged)
    assert len(swept) == 7
    for run in swept:
        same_outcome(folder.path / "runs" / run, folder.path / "by_stages" / run)
        assert not (folder.path / "runs" / f"{run}.unfinished").exists()
    assert {record.provenance.device.side_by_side for record in swept.values()} == {2}
    before = {path: path.stat().st_mtime_ns for path in (folder.path / "runs").glob("*/*")}
    assert "6 finished, 0 to train" in folder.run("normbench", "sweep")
    assert {path: path.stat().st_mtime_ns for path in (folder.path / "runs").glob("*/*")} == before
    # The stages take the runs from the store.
    printed = folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    assert printed.count("finished before") == 2


@pytest.mark.slow
def test_runs_of_the_stages_outputs_are_not_trained_again(folder: SuiteFolder):
    """As where `dvc pull` brought them: the store is empty."""
    folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    shutil.rmtree(folder.path / "runs")
    linked = folder.path / "build/trained/small/batch_norm/0/record.json"
    assert "6 runs in the suite, 2 finished, 4 to train" in folder.run("normbench", "sweep")
    kept = records(folder.path / "runs")
    assert linked.read_bytes() in [(folder.path / "runs" / run / "record.json").read_bytes() for run in kept]


@pytest.mark.slow
def test_two_sweeps_on_one_store_train_nothing_twice(folder: SuiteFolder):
    folder.edit("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")
    folder.run("stages.resolve")
    folder.bind()
    both = [folder.start("normbench", "sweep", "--jobs", "2") for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    ends = [line for text in printed for line in text.splitlines() if line.startswith("[")]
    trained = [line.split("] ")[1].split(":")[0] for line in ends if "by another process" not in line]
    assert sorted(trained) == sorted(set(trained))
    assert len(trained) == len(records(folder.path / "runs")) == 13


@pytest.mark.slow
@pytest.mark.parametrize("error", ["raise RuntimeError('on purpose')", "import os; os.kill(os.getpid(), 9)"])
@linux
def test_a_run_that_fails_leaves_the_others_alone(folder: SuiteFolder, error: str):
    folder.add_broken(error)
    folder.edit("variants: [batch_norm, group_norm]", "variants: [broken, batch_norm]")
    folder.edit("\nvariants:", "\nvariants:\n  broken: {method: broken.py:Broken}")
    printed = folder.run("normbench", "sweep", "--jobs", "2", code=1)
    assert len(records(folder.path / "runs")) == 5  # with the classifier of the FID
    for seed in (0, 1):
        (line,) = [line for line in printed.splitlines() if f"small broken seed {seed}: failed" in line]
        assert ("on purpose" if "purpose" in error else "signal 9") in line
    # What failed is tried again, and what is finished is not.
    assert "4 finished, 2 to train" in folder.run("normbench", "sweep", code=1)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@linux
def test_an_interrupted_sweep_goes_on(folder: SuiteFolder, number: int, code: int):
    folder.slow(4, "[0, 1, 2]")
    process = folder.start("normbench", "sweep", "--jobs", "2")
    deadline = time.monotonic() + 120
    while not list((folder.path / "runs").glob("*.unfinished/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert records(folder.path / "runs") == {}
    assert len(list((folder.path / "runs").glob("*.unfinished"))) == 2
    shown = folder.run("normbench", "plan", "--no-measure")
    assert shown.count("goes on from a checkpoint at epoch") == 2
    assert "unfinished, at " in folder.run("normbench", "runs", "list")
    with folder.hurry():
        folder.run("normbench", "sweep", "--jobs", "2")
        folder.run("normbench", "sweep", "--jobs", "1", NORMBENCH_STORE="whole")
    whole = records(folder.path / "runs")
    assert sum(record.cost.resumed is not None for record in whole.values()) == 2
    for run in whole:
        same_outcome(folder.path / "runs" / run, folder.path / "whole" / run)


@pytest.mark.slow
@linux
def test_runs_end_when_the_sweep_is_killed(folder: SuiteFolder):
    folder.slow(40, "[0]")
    process = folder.start("normbench", "sweep")
    deadline = time.monotonic() + 120
    while not list((folder.path / "runs").glob("*.unfinished/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()  # its child is left, notices it, and saves its state
    assert process.stdout is not None
    assert "checkpoint written" in process.stdout.read()  # until every process of the pipe has ended
    assert records(folder.path / "runs") == {}


@pytest.mark.slow
def test_then_dvc_only_assembles(tmp_path: Path):
    project = Project.made(tmp_path, PARAMS)
    done = project.normbench("sweep")
    assert done.returncode == 0, done.stderr
    done = project.try_repro("train@small-batch_norm", "train@small-group_norm", "gan@small-gan-batch_norm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before, taken from runs") == 6
    # An output that only DVC has counts as finished.
    shutil.rmtree(tmp_path / "runs")
    assert "0 of 6 runs to train" in project.normbench("plan").stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--store", "file:///tmp/x"], "--store file:///tmp/x: is for nodes that share no folder"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str], line: str):
    assert line in SuiteFolder(tmp_path).run("normbench", "sweep", *options, code=1)


def test_room_on_a_gpu():
    gib = 2**30
    fits = int(80 * gib // (room.CONTEXT + room.MARGIN * 4 * gib))
    assert room.on_gpu(80 * gib, 4 * gib, 16, 100) == fits == 14
    assert room.on_gpu(80 * gib, 4 * gib, 8, 100) == 8  # a process needs a core
    assert room.on_gpu(80 * gib, 4 * gib, 16, 3) == 3
    assert room.on_gpu(8 * gib, 20 * gib, 16, 3) == 1  # whether it fits shows when it is tried


def test_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(room, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * 2**30, 80 * 2**30))
    assert room.processes("cpu", 1, 0, 100) == 16
    assert room.processes("cpu", 5, 0, 100) == 3
    assert room.processes("cpu", 5, 0, 2) == 2
    assert room.processes("cpu", 32, 0, 2) == 1
    assert room.processes("mps", 8, 0, 100) == 1
    assert room.processes("cuda", 1, 3 * 2**30, 100) == 4  # 20 / (0.7 + 1.2 * 3)
    (tmp_path / "train_images.npy").write_bytes(bytes(1000))
    runs = [sample_runs.run(bound=sample_runs.bound(path=str(tmp_path)))]
    assert room.bytes_of_a_run(runs, [Cost(0.1, 10, 1.0, memory) for memory in (10, 30)]) == 1030
    streamed = [sample_runs.run(bound=sample_runs.bound(path=str(tmp_path), reader_code="a" * 64))]
    assert room.bytes_of_a_run(streamed, [Cost(0.1, 10, 1.0, 30)]) == 30


def test_threads_are_those_of_the_recipes():
    """The most of them, as a run with fewer leaves cores free."""
    one, three = (sample_runs.run(task=sample_runs.task(recipe={"threads": count})) for count in (1, 3))
    assert room.threads_of([one, three, one]) == 3
    assert room.threads_of([one]) == room.threads_of([]) == 1


def some_runs(count: int) -> list[Run]:
    return [sample_runs.run(seed=seed) for seed in range(count)]


def test_the_board_in_plain_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(board, "PLAIN_INTERVAL", 0.0)
    stream, runs = io.StringIO(), some_runs(3)
    with board.Board(runs, stream) as shown:
        shown.tell(runs[0].id, "running", 0.5, "epoch 3/6")
        shown.tick()
        shown.tell(runs[0].id, "done", 1.0, "clean accuracy 0.9")
        shown.tell(runs[1].id, "failed", fields="failed: on purpose")
        shown.tick()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("2 waiting, 1 running, ")
    assert lines[0].endswith("t v seed 0: epoch 3/6")
    assert lines[1].startswith("[1/3] t v seed 0: clean accuracy 0.9")
    assert lines[2].startswith("[2/3] t v seed 1: failed: on purpose")
    assert lines[3].startswith("1 done, 1 waiting, 1 failed, ")


def test_the_board_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, runs = Terminal(), some_runs(200)
    with board.Board(runs, stream) as shown:
        shown.tell(runs[150].id, "running", 0.5, "epoch 3/6")
        shown.note("[above] the table")
    text = stream.getvalue()
    assert "[above] the table" in text
    assert "t v seed 150" in text  # what runs comes before what waits, where there is no room for all
    assert "######......" in text
    assert "199 waiting, 1 running" in text
