"""Stages that are killed while they put their outputs in place: DVC sees only whole outputs, the next run clears up."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normbench.runs import archive, store
from normbench.runs.checkpoint import Checkpoints
from normbench.runs.remote import Remote
from normbench.system import scratch
from tests.runs.test_transfer import make
from tests.support import forks
from tests.support.project import ROOT, environment
from tests.support.suite_folder import SuiteFolder

# Runs a module as `python -m` does, and kills the process at the end of its work, when it exchanges a folder.
KILLED = """
import os, runpy, signal, sys
from normbench.system import scratch

moment, module = sys.argv[1:3]
real = scratch.exchange

def deadly(one, other):
    if moment == "after":
        assert real(one, other)
    if moment == "between two renames":
        other.rename(one.parent / scratch.OLD)
    os.kill(os.getpid(), signal.SIGKILL)

scratch.exchange = deadly
sys.argv[:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__")
"""


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder without those that DVC ignores."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        str(path): (folder / path).read_bytes()
        for path in sorted(found)
        if not any(part.startswith(".") for part in path.parts)
    }


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if scratch.is_temporary(path)]


@pytest.mark.slow
def test_a_kill_between_renames(tmp_path: Path) -> None:
    """Once DVC recorded 18 files in place of 6 after it."""
    folder = SuiteFolder(tmp_path)
    folder.bind()
    build = tmp_path / "build"
    whole = contents(build)
    corrupted = sorted(name for name in whole if name.startswith("corrupted/"))
    assert corrupted == [f"corrupted/digits/{name}" for name in ("contrast.npy", "labels.npy", "meta.json")]
    arguments = ("stages.corrupt", "--dataset", "digits")
    for moment in ("before", "after", "between two renames"):
        done = forks.run("-c", KILLED, moment, *arguments, cwd=tmp_path, env=folder.environment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(leftovers(build)) == 1
        if moment != "between two renames":
            assert contents(build) == whole
        folder.run(*arguments)
        assert leftovers(build) == []
        assert contents(build) == whole


def test_dvc_does_not_see_what_is_being_written(tmp_path: Path) -> None:
    """Neither in what a stage depends on nor in its outputs, in the form of this version and in that of earlier ones."""
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: 'true', deps: [build/data], outs: [build/made]}}")
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    for name in ("build/data/digits/a.npy", "build/made/x/b.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)

    def dvc(*arguments: str) -> str:
        done = forks.run("-m", "dvc", *arguments, cwd=tmp_path, env=environment(ROOT))
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--no-scm")
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    dvc("commit", "--force")
    before = (tmp_path / "dvc.lock").read_text()
    for left in (".digits.01234567.partial/digits", ".digits.a1b2c3d4", "digits/.meta.json.01234567.partial"):
        for place in ("build/data", "build/made"):
            (tmp_path / place / left).mkdir(parents=True)
            (tmp_path / place / left / "half.npy").write_text("half")
    assert json.loads(dvc("status", "--json")) == {}
    dvc("commit", "--force")
    assert (tmp_path / "dvc.lock").read_text() == before
    (tmp_path / "build/data/digits/c.npy").write_text("new")
    assert list(json.loads(dvc("status", "--json"))) == ["one"]


def test_git_does_not_see_it_either(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)
    (tmp_path / "results/.report.html.01234567.partial").mkdir(parents=True)
    (tmp_path / "results/.report.html.01234567.partial/report.html").write_text("half")
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert printed == "?? .gitignore\n"


def dying(work: Callable[[], object], number: int) -> bool:
    """Calls `work` in a child that kills itself before the n-th call that gives something its name; whether it did."""
    pid = os.fork()
    if pid == 0:
        calls = itertools.count(1)

        def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("rename", "replace", "fsync", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill_transfers(work: str, folder: Path) -> None:
    """In an interpreter of its own, which may fork."""
    run = make()
    exported = archive.export(run, folder / "whole")
    original = contents(folder / "runs" / run)
    target = folder / "out"
    if work == "import":
        os.environ["NORMBENCH_STORE"] = str(target)
    tasks = {
        "export": lambda: archive.export(run, target),
        "import": lambda: archive.import_(exported),
        "give": lambda: Remote(str(target)).give(run),
    }
    for number in range(1, 100):
        killed = dying(tasks[work], number)
        if work == "import":
            assert store.all_finished() in ([], [run])
        for path in target.glob(f"*{archive.SUFFIX}"):
            assert path.read_bytes() == exported.read_bytes()
        tasks[work]()
        if work == "import":
            assert contents(target / run) == original
        assert {path.name for path in target.iterdir()} == ({run, "locks"} if work == "import" else {exported.name})
        assert leftovers(folder) == []
        shutil.rmtree(target)
        if not killed:
            print(number)
            return


@pytest.mark.parametrize("work", ["export", "import", "give"])
def test_archives_and_stores(work: str, tmp_path: Path) -> None:
    """Killed at each call: no archive and no run is there by halves, and doing it again leaves only what it should."""
    code = (
        "import sys; from pathlib import Path; from tests.project.test_killed_stages import kill_transfers\n"
        "kill_transfers(sys.argv[1], Path(sys.argv[2]))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "NORMBENCH_STORE": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    done = forks.run("-c", code, work, str(tmp_path), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2


def test_a_killed_checkpoint_is_cleared_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".000001-0123456789abcdef.pt.01234567.partial"
    left.mkdir()
    (left / "half").write_text("half")
    checkpoints = Checkpoints(tmp_path, 10)
    assert checkpoints.resume() is None
    checkpoints.save({"number": 1})
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]
