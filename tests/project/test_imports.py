"""What the stages and the commands import: torch takes seconds of each process that imports it without need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import environment
from tests.support.suite_folder import SuiteFolder

ROOT = Path(__file__).resolve().parents[2]
STAGES = [path.stem for path in sorted((ROOT / "stages").glob("*.py")) if path.stem != "__init__"]
WITH_TORCH = ("resolve", "bind", "train", "evaluate", "gan", "real", "fid")
# What only some of the work needs, and takes half a second or more: it is imported where it is used.
HEAVY = {"torch._dynamo", "torch_fidelity", "torchmetrics", "sympy", "sklearn", "matplotlib", "pandas", "ray", "dvc"}
WITH_HEAVY = {
    "aggregate": {"pandas", "matplotlib"},
    "report": {"pandas", "matplotlib"},
}


def imported(code: str, folder: Path = ROOT) -> set[str]:
    """The names of the modules that are imported once a code has run."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, cwd=folder, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("stage", sorted({*STAGES} - {*WITH_TORCH}))
def test_a_stage_imports_torch_only_for_its_work(stage: str) -> None:
    found = imported(f"import stages.{stage}")
    assert "torch" not in found
    assert HEAVY & found <= WITH_HEAVY.get(stage, set())


def test_stages_with_torch_import_nothing_else_that_takes_long() -> None:
    """All in one process, in which none may have imported it."""
    assert {*WITH_TORCH} <= {*STAGES}
    assert WITH_HEAVY.keys() & {*WITH_TORCH} == set()
    found = imported("".join(f"import stages.{stage}; " for stage in WITH_TORCH))
    assert "torch" in found
    assert HEAVY & found == set()


@pytest.mark.parametrize(
    "module", ["normbench", "normbench.cli", "normbench.sweep.everything", "normbench.sweep.repro"]
)
def test_a_command_imports_little_before_its_work(module: str) -> None:
    found = imported(f"import {module}")
    assert not {"torch", "numpy", "pydantic", *HEAVY} & found


def test_the_server_imports_no_compiler(tmp_path: Path) -> None:
    """It would look for a GPU, and a process that has found one cannot be forked. A sweep imports it for itself."""
    found = imported(
        "import importlib; from normbench.sweep import everything\n"
        "for name in everything.FIRST: importlib.import_module(name)\n"
        "from normbench.suite.names import names; names()"
    )
    assert "torch" in found
    assert not HEAVY & found


NEW = r"""
import os, sys
from normbench.suite import train
from normbench.system import preemption

claim = train.claim_and_train
def noting(run, data):
    before = set(sys.modules)
    claim(run, data)
    parts = ("torch._", "torch.fx", "torch.distributed", "sympy")
    new = sorted(name for name in set(sys.modules) - before if name.startswith(parts))
    os.write(1, f"{' '.join(['new', str(os.getpid() != parent), *new])}\n".encode())
parent, train.claim_and_train = os.getpid(), noting
train.complete(train.Kind(sys.argv[1]), sys.argv[2], "batch_norm")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_forked_training_imports_no_large_part_of_torch_itself(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.bind()
    for kind, task in (("classification", "small"), ("gan", "small-gan")):
        command = [sys.executable, "-c", NEW, kind, task]
        environment = folder.environment | {"LOKY_MAX_CPU_COUNT": "2"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if line.startswith("new")] == ["new True"] * 2
