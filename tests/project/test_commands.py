"""The `normbench` command: its version, JSON for programs, and completion in a shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from normbench import __version__
from normbench.runs.run import Kind
from tests.support import forks
from tests.support.suite_folder import SuiteFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """A folder in which one cell of the suite is trained, and another record lies in the store that nobody can read."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    folder.bind()
    folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    older = folder.path / "runs" / ("0" * 16)
    older.mkdir()
    (older / "record.json").write_text('{"format": 1}')
    return folder


def called(folder: SuiteFolder, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """What `normbench ARGUMENTS` writes to stdout and to stderr; it must end with `code`."""
    done = forks.run("-m", "normbench", *arguments, cwd=folder.path, env=folder.environment | environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def installed(folder: SuiteFolder, *arguments: str, **environment: str) -> tuple[str, str]:
    """The same of the command that an installation puts on the path."""
    done = subprocess.run(
        ["normbench", *arguments], cwd=folder.path, env=folder.environment | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def printed(folder: SuiteFolder, *arguments: str) -> Any:
    """The JSON value that a command prints, and nothing else."""
    return json.loads(called(folder, *arguments, "--json")[0])


def test_version(tmp_path: Path) -> None:
    assert installed(SuiteFolder(tmp_path), "--version") == (f"normbench {__version__}\n", "")


def test_list_as_json(tmp_path: Path) -> None:
    found = printed(SuiteFolder(tmp_path), "list")
    assert found["methods"]["network_deconvolution"]["block"] == 64
    assert found["models"]["resnet8"]["width"] > 0
    assert "sngan" in found["GAN models"]
    assert found["dataset sources"]["npz"]["path"] == "(required)"
    assert len(found["corruptions"]) == 19
    assert "attacks" in found["scores"]


@pytest.mark.slow
def test_check_as_json(folder: SuiteFolder) -> None:
    assert printed(folder, "check") == {"params": "params.yaml", "runs": 6, "changed": [], "notes": []}
    folder.edit("epochs: 2", "epochs: 3")
    assert printed(folder, "check")["changed"] == ["tasks/small"]
    folder.edit("epochs: 3", "epochs: 2")


@pytest.mark.slow
def test_a_mistake_is_no_json(folder: SuiteFolder) -> None:
    folder.edit("epochs: 2", "epochz: 2")
    out, error = called(folder, "check", "--json", code=1)
    assert out == ""
    assert "unknown key; did you mean 'epochs'" in error
    folder.edit("epochz: 2", "epochs: 2")


@pytest.mark.slow
def test_runs_as_json(folder: SuiteFolder) -> None:
    out, error = called(folder, "runs", "list", "--json")
    found = json.loads(out)
    assert found["absent"] == {}
    trained = [run for run in found["runs"] if run["status"] == "finished"]
    assert [(run["task"], run["variant"], run["seed"]) for run in trained] == [
        ("small", "batch_norm", 0),
        ("small", "batch_norm", 1),
    ]
    assert all(0 < run["clean_accuracy"] <= 1 and run["of_suite"] for run in trained)
    assert [run["status"] for run in found["runs"]].count("missing") == 4
    # The record that cannot be read is named, and not among what a program reads.
    assert f"runs/{'0' * 16}/record.json: " in error


@pytest.mark.slow
@pytest.mark.parametrize("measured", [True, False])
def test_plan_as_json(folder: SuiteFolder, measured: bool) -> None:
    found = printed(folder, "plan", *([] if measured else ["--no-measure"]))
    assert found["device"] == "cpu"
    assert [run["state"] for run in found["runs"]] == ["done"] * 2 + ["missing"] * 4
    assert [run["kind"] for run in found["runs"]] == [Kind.CLASSIFICATION] * 4 + [Kind.GAN] * 2
    times = [run["seconds"] for run in found["runs"]]
    assert times[:2] == [None, None]
    assert all(seconds > 0 for seconds in times[2:]) if measured else times == [None] * 6
    assert (found["seconds"] is not None) == (found["side_by_side"] is not None) == measured


def test_a_shell_completes_commands(tmp_path: Path) -> None:
    """The options are typer's. Which shell calls is found by its process, so it is named here instead."""
    folder = SuiteFolder(tmp_path)
    shown = installed(folder, "--help")[0]
    assert "--install-completion" in shown
    assert "--show-completion" in shown
    script, _ = installed(folder, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_NORMBENCH_COMPLETE=complete_bash" in script
    words = {"_NORMBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "normbench runs p", "COMP_CWORD": "2"}
    assert installed(folder, **words)[0].split() == ["prune"]
