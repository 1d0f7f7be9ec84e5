"""What normbench starts has one thread for each library, and threads that wait asleep; as a library it changes nothing.

The libraries are asked: with OMP_DISPLAY_ENV each OpenMP prints its settings when it is loaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.system import threads
from normbench.system.errors import UserError
from tests.support.noted import Noted, check, environment
from tests.support.suite_folder import records

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="of the libraries, libgomp alone says how it waits")


def displayed(*command: str, **given: str) -> tuple[set[str], set[str]]:
    """The numbers of threads, and how often they look before they sleep, of each OpenMP that a command loads."""
    env = environment(OMP_DISPLAY_ENV="VERBOSE", **given)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(set(re.findall(rf"\s{name} = '(\d+)'", done.stderr)) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"))


@linux
@pytest.mark.parametrize("command", [["stages.train", "--help"], ["stages.fid", "--help"], ["normbench", "list"]])
def test_entry_points(command: list[str]) -> None:
    assert displayed("-m", *command) == ({"1"}, {"0"})


@linux
def test_what_the_user_sets_is_kept() -> None:
    alone = displayed("-c", "import torch", OMP_NUM_THREADS="3")
    assert alone[0] == {"3"}
    assert "0" not in alone[1]
    assert displayed("-m", "stages.train", "--help", OMP_NUM_THREADS="3") == ({"3"}, {"0"})
    policy = displayed("-m", "stages.train", "--help", OMP_WAIT_POLICY="active")
    assert policy[0] == {"1"}
    assert "0" not in policy[1]


LIBRARY = """
import importlib, json, os, pkgutil, sys
before = dict(os.environ)
import torch
torch.set_num_threads(5)
found = [torch.get_num_threads(), torch.get_num_interop_threads()]
import normbench
for module in pkgutil.walk_packages(normbench.__path__, "normbench."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert len([name for name in sys.modules if name.startswith("normbench.")]) > 100
from normbench.corruptions import corrupt
import numpy as np
corrupt(np.zeros((1, 32, 32, 3), np.uint8), "fog", 1)
changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
print(json.dumps([found, [torch.get_num_threads(), torch.get_num_interop_threads()], sorted(changed)]))
"""


def test_as_a_library_it_changes_nothing() -> None:
    """Every module is imported, beside the use of one function."""
    command = [sys.executable, "-c", LIBRARY]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, changed = json.loads(done.stdout.splitlines()[-1])
    assert before[0] == 5
    assert after == before
    assert not {name for name in changed if re.match("OMP|GOMP|KMP|MKL|OPENBLAS|OPENCV", name)}


@linux
@pytest.mark.slow
def test_stages_and_workers(tmp_path: Path) -> None:
    folder = Noted(tmp_path)
    for stage in (["resolve"], ["download", "--dataset", "digits"], ["corrupt", "--dataset", "digits"], ["bind"]):
        folder.run(f"stages.{stage[0]}", *stage[1:])
    check(folder.taken())
    for stage, task in (("train", "small"), ("evaluate", "small"), ("gan", "small-gan")):
        folder.run(f"stages.{stage}", "--task", task, "--variant", "noting")
        notes = folder.taken()
        check(notes)
        assert len(notes) >= min(2, len(os.sched_getaffinity(0)))
    folder.run("normbench", "corrupt", "digits", "--out", "out", "--names", "salt.py:salt", "--workers", "2")
    notes = folder.taken()
    check(notes)
    assert all(note["name"].startswith("ForkProcess") for note in notes.values())


SPAWNS = """
import sys
import normbench.cli
from normbench.system import threads
threads.set_environment()
from normbench.sweep import local
local.FORKS = FORKS
sys.argv = ["normbench", "sweep", "--jobs", "2"]
normbench.cli.main()
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False], ids=["forked", "spawned"])
def test_workers_of_a_sweep(forks: bool, tmp_path: Path) -> None:
    folder = Noted(tmp_path)
    folder.edit("gan_tasks: [small-gan]", "gan_tasks: []")
    folder.edit("gan_variants: [noting]", "gan_variants: []")
    code = SPAWNS.replace("FORKS = FORKS", f"FORKS = {forks}")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.path, env=folder.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    notes = folder.taken()
    check(notes)
    runs = [note for note in notes.values() if note["name"] != "MainProcess"]
    assert len(runs) == 2
    # /proc says of a forked process how its parent began, which loads torch afterwards.
    assert {"OMP_WAIT_POLICY=passive" in note["began"] for note in runs} == {not forks}
    made = records(folder.path / "runs")
    assert len(made) == 2
    assert {record.provenance.numerics.threads for record in made.values()} == {1}


@linux
def test_cores_of_an_affinity_mask() -> None:
    """As `taskset` sets it. What counts them is imported afterwards, as in a process that is started so."""
    code = (
        "import os, sys; from normbench.system.threads import cores; "
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


# The files of a container are those below /sys; they are read with `open`.
QUOTA = """
import builtins, io, os, sys
files = dict(zip(sys.argv[1::2], sys.argv[2::2]))
real_open, real_exists = builtins.open, os.path.exists
builtins.open = lambda path, *rest, **more: io.StringIO(files[path]) if path in files else real_open(path, *rest, **more)
os.path.exists = lambda path: path in files or not str(path).startswith("/sys/fs/cgroup") and real_exists(path)
os.cpu_count = lambda: 16
os.sched_getaffinity = lambda _: set(range(16))
from normbench.system.threads import cores
print(cores())
"""


@linux
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 16),
        ({"/sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_cores_of_a_container(files: dict[str, str], expected: int) -> None:
    given = [each for pair in files.items() for each in pair]
    env = environment()
    env.pop("LOKY_MAX_CPU_COUNT", None)
    done = subprocess.run([sys.executable, "-c", QUOTA, *given], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout == f"{expected}\n", done.stderr


def test_fewer_cores_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert threads.cores() == 1
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    with pytest.raises(UserError, match="LOKY_MAX_CPU_COUNT = 'many': must be a whole number"):
        threads.cores()
