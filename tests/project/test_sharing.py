"""Results that are shared through a DVC remote: who pulls them trains only what is new, and nothing that is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from normbench.runs.record import Record
from tests.support.project import PARAMS, Project
from tests.support.suite_folder import outcome

pytestmark = pytest.mark.slow

CELL = "train@small-batch_norm"
OUTPUT = Path("build/trained/small/batch_norm")


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose results are in a remote, a folder, and whose files are committed."""
    folder = tmp_path_factory.mktemp("shared")
    params = PARAMS.replace("variants: [batch_norm, group_norm]", "variants: [batch_norm]")
    params = params.replace("gan_tasks: [small-gan]", "gan_tasks: []").replace(
        "gan_variants: [batch_norm]", "gan_variants: []"
    )
    project = Project.made(folder / "normbench", params)
    assert CELL in project.repro()
    for arguments in (["remote", "add", "--default", "storage", str(folder / "remote")], ["push"]):
        done = project.dvc(*arguments)
        assert done.returncode == 0, done.stderr
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "--message", "results")
    return project


@pytest.fixture
def pulled(shared: Project, tmp_path: Path) -> Project:
    """A clone that somebody else has pulled the results into; its run store is empty."""
    git(tmp_path, "clone", "--quiet", str(shared.path), "clone")
    project = Project(tmp_path / "clone")
    done = project.dvc("pull")
    assert done.returncode == 0, done.stderr
    assert not (project.path / "runs").exists()
    return project


def states(project: Project) -> dict[int, str]:
    """The state of each run of the cell, by seed, as `normbench plan` says it."""
    planned = json.loads(project.normbench("plan", "--no-measure", "--json").stdout)
    return {run["seed"]: run["state"] for run in planned["runs"]}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_more_seed_trains_one_run(shared: Project, pulled: Project) -> None:
    assert pulled.repro() == []  # What was pulled is up to date.
    pulled.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    assert states(pulled) == {0: "done", 1: "done", 2: "missing"}
    assert "1 of 3 runs to train" in pulled.normbench("plan", "--no-measure").stdout
    done = pulled.try_repro(CELL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before, taken from runs") == 2
    before, after = content(shared.path / OUTPUT), content(pulled.path / OUTPUT)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"2/record.json", "2/weights.pt", "2/predictions.npz"}
    assert states(pulled) == dict.fromkeys((0, 1, 2), "done")


def test_what_is_damaged_is_named_and_trained_again(shared: Project, pulled: Project) -> None:
    """One file has a bit that is not as it was, in the middle of its numbers; another is cut short."""
    flipped, short = (pulled.path / OUTPUT / str(seed) / "weights.pt" for seed in (0, 1))
    damaged = bytearray(flipped.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for path, data in ((flipped, bytes(damaged)), (short, short.read_bytes()[:-5000])):
        path.unlink()  # It may be a link into the cache of DVC.
        path.write_bytes(data)
    pulled.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    done = pulled.try_repro(CELL)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        lines = {line for line in (done.stdout + done.stderr).splitlines() if f"{OUTPUT}/{seed}: " in line}
        (line,) = lines
        assert line.startswith(f"{OUTPUT}/{seed}: weights.pt cannot be read (")
        assert "; not taken into the run store" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert "finished before" not in done.stdout
    assert set(pulled.records()) == {f"small/batch_norm/{seed}" for seed in (0, 1, 2)}
    for seed in (0, 1):
        old, new = (Record.read(each.path / OUTPUT / f"{seed}/record.json") for each in (shared, pulled))
        assert outcome(new) == outcome(old)
        assert new.provenance.started > old.provenance.started


def test_runs_of_the_store_and_pulled_ones_go_together(pulled: Project) -> None:
    """One run lies in the store, another in what was pulled: neither is trained again."""
    run = pulled.records()["small/batch_norm/0"].run
    shutil.copytree(pulled.path / OUTPUT / "0", pulled.path / "runs" / run)
    shutil.rmtree(pulled.path / OUTPUT / "0")
    assert states(pulled) == {0: "done", 1: "done"}
    pulled.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    done = pulled.try_repro(CELL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before, taken from runs") == 2
    assert set(pulled.records()) == {f"small/batch_norm/{seed}" for seed in (0, 1, 2)}
