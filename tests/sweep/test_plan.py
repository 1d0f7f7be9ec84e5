"""A plan says which runs are done, stale and why, unfinished or missing, and about how long they take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from normbench.runs.run import Run
from normbench.sweep import plan
from tests.support.suite_folder import SuiteFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """A folder in which one variant is trained."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    folder.bind()
    folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    return folder


@pytest.fixture
def folder(trained: SuiteFolder, tmp_path: Path) -> SuiteFolder:
    shutil.copytree(trained.path, tmp_path / "suite")
    return SuiteFolder(tmp_path / "suite")


def rows(printed: str) -> dict[str, list[str]]:
    """The cells of the table, by task and variant."""
    lines = [line.split() for line in printed.splitlines() if line.startswith("small")]
    return {" ".join(cells[:2]): cells[2:] for cells in lines}


@pytest.mark.slow
def test_done_missing_and_the_time(folder: SuiteFolder):
    before = sorted((folder.path / "runs").rglob("*"))
    printed = folder.run("normbench", "plan")
    found = rows(printed)
    assert found["small batch_norm"] == ["2"]
    assert found["small group_norm"][0] == "2"
    assert float(found["small group_norm"][1]) > 0  # milliseconds a step
    assert "4 of 6 runs to train, about " in printed
    assert sorted((folder.path / "runs").rglob("*")) == before


@pytest.mark.slow
def test_stale_runs_and_why(folder: SuiteFolder):
    def reason() -> str:
        printed = folder.run("normbench", "plan", "--no-measure")
        (line,) = [line for line in printed.splitlines() if line.startswith("stale: ")]
        return line

    folder.edit("epochs: 2", "epochs: 3")
    assert reason() == "stale: small batch_norm, seeds 0, 1: recipe.epochs was 2, is 3"
    shutil.rmtree(folder.path / "build/trained")  # DVC removes it before the stage runs; the store has it too
    assert reason() == "stale: small batch_norm, seeds 0, 1: recipe.epochs was 2, is 3"
    folder.edit("epochs: 3", "epochs: 2")
    folder.edit("batch_norm: {method: batch_norm}", "batch_norm: {method: batch_norm, options: {eps: 0.01}}")
    assert reason() == "stale: small batch_norm, seeds 0, 1: options.eps was 1e-05, is 0.01"
    printed = folder.run("normbench", "runs", "list")
    assert printed.count("  stale") == 2
    assert "the last 2 are not of the suite" in printed


@pytest.mark.slow
def test_a_dataset_that_is_not_here(folder: SuiteFolder):
    folder.edit("datasets: [digits]", "datasets: [digits, larger]")
    folder.edit("datasets:\n  digits:", "datasets:\n  larger: {source: digits, image_size: 12}\n  digits:")
    folder.edit("tasks: [small]", "tasks: [small, other]")
    folder.edit("\ntasks:\n", "\ntasks:\n  other: {dataset: larger, model: resnet8, recipe: {epochs: 1}}\n")
    printed = folder.run("normbench", "plan", "--no-measure")
    assert "dataset larger: not here yet, so that its runs are not known; make it with `dvc repro bind`" in printed
    assert rows(printed)["small batch_norm"] == ["2"]  # the rest is planned
    folder.edit("image_size: 8", "image_size: 16")
    assert "dataset digits: another one since" in folder.run("normbench", "plan", "--no-measure")


def run_of(**changed: Any) -> Run:
    task = {"name": "t", "seeds": [0], "model": "m", "model_code": "1", "recipe": {"epochs": 2, "lr": 0.1}}
    variant = {"name": "v", "method": "n", "options": {"eps": 0.1}, "method_code": "1"}
    task |= changed.get("task", {})
    return Run(
        "0" * 16, task, variant | changed.get("variant", {}), 0, {"name": "d", "fingerprint": "1"}, "1", "t v seed 0"
    )


@pytest.mark.parametrize(
    ("was", "expected"),
    [
        ({"code_fingerprint": "0"}, ["training code"]),
        ({"dataset": {"fingerprint": "0"}}, ["dataset d: other content"]),
        ({"task": run_of(task={"model_code": "0", "seeds": [1, 2]}).task}, ["model code"]),
        ({"variant": run_of(variant={"method_code": "0"}).variant}, ["method code"]),
        ({"task": run_of(task={"recipe": {"epochs": 2}}).task}, ["recipe.lr is new, 0.1"]),
        ({"task": run_of(task={"old": 1}).task}, ["old was 1, is gone"]),
        ({}, ["what a run's id is made of"]),
    ],
)
def test_differences(was: dict[str, Any], expected: list[str]):
    run = run_of()
    origin = {"task": run.task, "variant": run.variant, "dataset": {"fingerprint": "1"}, "code_fingerprint": "1"}
    assert plan.differences(origin | was, run) == expected


def test_time_of_all():
    assert plan.makespan([3, 3, 3], 1) == 9
    assert plan.makespan([3, 3, 3], 2) == 6
    assert plan.makespan([1, 5, 1, 1], 2) == 5
    assert plan.Cost(0.1, 100, 2.0, 0).seconds() == pytest.approx(12)
    assert plan.Cost(0.1, 100, 2.0, 0).seconds(0.5) == pytest.approx(7)


def test_the_stopwatch_ends_a_training_after_its_steps(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(1000))
    monkeypatch.setattr(plan.time, "perf_counter", lambda: float(next(clock)))
    watch = plan.Stopwatch("cpu")
    for _ in range(plan.WARM + plan.STEPS - 1):
        assert not watch.due()
    with pytest.raises(plan.Enough):
        watch.due()
    assert watch.step() == 1.0
    short = plan.Stopwatch("cpu")
    short.due()
    assert short.step() == 1.0  # the one there is
