"""Training stages whose runs are trained by several processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.suite_folder import SuiteFolder, records

TRAIN = ("stages.train", "--task", "small", "--variant", "batch_norm")


@pytest.mark.slow
def test_two_processes_train_the_runs_of_one(tmp_path: Path) -> None:
    """The runs have the ids of one process, almost its losses, and say how they were trained."""
    found = []
    for count in ("1", "2"):
        folder = SuiteFolder(tmp_path / count)
        folder.bind()
        folder.run(*TRAIN, NORMBENCH_RANKS=count)
        assert len(list((folder.path / "build/trained/small/batch_norm").glob("*/record.json"))) == 2
        found.append(records(folder.path / "runs"))
        assert "finished before" in folder.run(*TRAIN, NORMBENCH_RANKS=count)
    one, two = found
    assert one.keys() == two.keys()
    for run, record in one.items():
        assert (record.provenance.device.ranks, two[run].provenance.device.ranks) == (1, 2)
        for epoch, other in zip(record.metrics["history"], two[run].metrics["history"], strict=True):
            # Rounding grows with every step at this learning rate; tests/training/test_division.py is strict.
            assert epoch["loss"] == pytest.approx(other["loss"], rel=1e-2)


@pytest.mark.slow
def test_torchrun_and_a_sweep_start_processes_too(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.bind()
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    folder.run(*torchrun, *TRAIN)
    assert [record.provenance.device.ranks for record in records(tmp_path / "runs").values()] == [2, 2]
    folder.run("normbench", "sweep", NORMBENCH_RANKS="3")
    found = [record for record in records(tmp_path / "runs").values() if record.kind == "classification"]
    assert sorted(record.provenance.device.ranks for record in found) == [1, 2, 2, 3, 3]  # 1: the features of the FID


@pytest.mark.slow
def test_processes_that_are_ended_go_on_in_one(tmp_path: Path) -> None:
    """SIGTERM for the stage ends both processes after they have saved their state."""
    folder = SuiteFolder(tmp_path)
    folder.slow(20, "[0, 1]")
    folder.edit("epochs: 20", "epochs: 20, replicas: 2")
    folder.bind()
    train = ("stages.train", "--task", "small", "--variant", "slow")
    process = folder.start(*train, NORMBENCH_RANKS="2", NORMBENCH_CHECKPOINT_MINUTES="0")
    while not list((tmp_path / "runs").glob("*.unfinished/*.pt")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75, printed
    assert "checkpoint written" in printed
    assert records(tmp_path / "runs") == {}
    (tmp_path / "hurry").touch()
    folder.run(*train)
    first, second = (record for _, record in sorted(records(tmp_path / "runs").items()))
    assert {record.cost.resumed is None for record in (first, second)} == {True, False}


@pytest.mark.slow
def test_what_several_processes_cannot_do_is_said_in_a_line(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.bind()
    printed = folder.run(*TRAIN, code=1, NORMBENCH_RANKS="two")
    assert printed == "NORMBENCH_RANKS = 'two': must be a number of processes, e.g. 2\n"
    printed = folder.run("normbench", "sweep", "--ray", "auto", code=1, NORMBENCH_RANKS="2")
    assert printed == "NORMBENCH_RANKS = 2: is for the processes of one machine, so not with --ray\n"
