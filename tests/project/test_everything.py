"""`normbench results`, which `make results` calls: what `check --refresh` and `dvc repro` make, in less time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normbench.runs.record import Record
from normbench.sweep import everything
from normbench.system import fork_server
from normbench.system.errors import UserError
from tests.support import forks
from tests.support.project import Project, ran
from tests.support.suite_folder import outcome

pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")
# Added to the scripts of stages: notes the name of the program in whose memory the stage runs.
NOTES = """
    from pathlib import Path
    with open("programs", "a") as file:
        file.write(Path("/proc/self/cmdline").read_text().split("\\0")[2] + "\\n")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which `normbench results` has made everything, and each stage has noted what program runs it.

    That process is a fresh one, those of the tests are forked.
    """
    project = Project.made(tmp_path_factory.mktemp("clone") / "normbench")
    for path in (project.path / "stages").glob("[a-z]*.py"):
        path.write_text(path.read_text() + NOTES)
    command = [sys.executable, "-m", "normbench", "results"]
    done = subprocess.run(command, cwd=project.path, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 runs in the suite, 0 finished, 6 to train" in done.stdout
    assert_ending(done)
    return project


def assert_ending(done: subprocess.CompletedProcess[str]) -> None:
    """It ends with the leaderboards and the place of the report, and without hints of DVC."""
    lines = done.stdout.splitlines()
    assert lines[-1] == "results/report.html: the report; `normbench serve` shows it"
    place = lines.index("small")
    assert [line.split()[0] for line in lines[place + 2 : place + 4]] == ["batch_norm", "group_norm"]
    assert all("Running stage" not in line and "Updating" not in line for line in lines[place:])
    assert "small-gan" in lines[place:]
    for hint in ("dvc push", "git add", "autostage"):
        assert hint not in done.stdout + done.stderr


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A copy of it, for a test to change."""
    shutil.copytree(made.path, tmp_path / "normbench", symlinks=True)
    (tmp_path / "normbench/programs").unlink(missing_ok=True)
    return Project(tmp_path / "normbench")


def programs(project: Project) -> set[str]:
    return set((project.path / "programs").read_text().split())


def scored(project: Project) -> dict[str, Record]:
    """The records with their scores, without times, by their place."""
    scores = project.path / "build/scores"
    return {path.relative_to(scores).as_posix(): outcome(Record.read(path)) for path in scores.rglob("*.json")}


@linux
def test_every_stage_is_forked(made: Project) -> None:
    """Those that the sweep calls through DVC too: nothing in their surroundings may differ."""
    assert programs(made) == {"normbench"}


def test_nothing_to_do(project: Project) -> None:
    done = project.normbench("results")
    assert done.returncode == 0, done.stderr
    assert ran(done.stdout) == []
    assert "runs in the suite" not in done.stdout.replace("the suite has", "")
    assert_ending(done)
    assert project.changed() == set()


def test_the_same_as_by_dvc_alone(project: Project) -> None:
    before = scored(project)
    assert len(before) == 6
    for name in ("build", "runs"):
        shutil.rmtree(project.path / name)
    shutil.rmtree(project.path / ".dvc/cache")
    (project.path / "dvc.lock").unlink()
    done = project.dvc("repro")
    assert done.returncode == 0, done.stderr
    assert scored(project) == before
    assert programs(project) == {"stages." + path.stem for path in (project.path / "stages").glob("[a-z]*.py")}


def test_runs_that_are_only_in_the_outputs_are_not_trained(project: Project) -> None:
    """As after `dvc pull`."""
    shutil.rmtree(project.path / "runs")
    done = project.normbench("results")
    assert done.returncode == 0, done.stderr
    assert ran(done.stdout) == []
    assert "to train" not in done.stdout


def test_a_mistake_is_one_line_before_anything_runs(project: Project) -> None:
    project.edit("  variants: [", "  varients: [")
    done = project.normbench("results")
    assert done.returncode == 1
    assert "did you mean 'variants'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert ran(done.stdout) == []


def test_a_stage_that_fails_ends_it_with_its_code(project: Project) -> None:
    """Of DVC, which names the stage."""
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm]")
    path = project.path / "stages/aggregate.py"
    path.write_text(path.read_text() + "    raise SystemExit(3)\n")
    done = project.normbench("results")
    assert done.returncode == 255
    assert "failed to reproduce 'aggregate'" in done.stderr
    assert programs(project) == {"tests.support.forks"} if sys.platform == "linux" else True


def test_without_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="DVC is not installed here"):
        everything.make()


def test_on_other_systems_it_is_a_check_and_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """On which no process can be forked."""
    called: list[object] = []
    monkeypatch.setattr(fork_server.sys, "platform", "darwin")
    monkeypatch.setattr(everything, "prepare", lambda sweeps: called.append(sweeps))
    codes = [0, 7]
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: called.append(command[1:]) or subprocess.CompletedProcess([], codes.pop(0)),
    )
    everything.make()
    with pytest.raises(SystemExit) as end:
        everything.make()
    assert end.value.code == 7
    assert called == 2 * [False, ["-m", "normbench.sweep.repro"]]


def test_on_a_gpu_a_stage_runs_by_itself(project: Project) -> None:
    """Where there is none, the package of this clone is told that there is one."""
    project.edit('raise SystemExit(devices.choose() != "cpu")', "raise SystemExit(1)", "normbench/sweep/everything.py")
    project.edit("\nvariants:", "\nvariants:\n  more: {method: no_norm}")
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm, more]")
    done = project.normbench("results")
    assert done.returncode == 0, done.stderr
    assert "stages.evaluate" in programs(project)


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, project: Project) -> None:
    """In the middle of the training; the same command then goes on."""
    project.edit("epochs: 2,", "epochs: 400,")
    process = forks.start("-m", "normbench", "results", cwd=project.path, env=project.environment)
    deadline = time.monotonic() + 240
    while not list((project.path / "runs").glob("*.unfinished/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    if number == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert "Traceback" not in printed
    assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130}.get(number, -number), printed
    deadline = time.monotonic() + 30
    while of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_session(process.pid) == []


def of_session(session: int) -> list[str]:
    """The command lines of the processes that were started in a session or by one that was, and still run."""
    listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listed.splitlines()]
    return [args for sid, state, args in lines if int(sid) == session and not state.startswith("Z")]
