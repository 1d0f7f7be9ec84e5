"""A plan says which runs are done, stale and why, unfinished or missing, and about how long they take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from normbench.runs.run import Kind, Run
from normbench.sweep import cost, plan, states
from normbench.training import logits
from tests.support import kill_and_resume, sample_runs
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


RUN, OTHER = sample_runs.run(), "5" * 64


@pytest.mark.parametrize(
    ("was", "expected"),
    [
        ({"code": OTHER}, ["training code"]),
        ({"bound": sample_runs.bound(fingerprint="1" * 64)}, ["dataset d: other content"]),
        ({"bound": sample_runs.bound(classes=3)}, ["dataset d: classes was 3, is 4"]),
        ({"bound": sample_runs.bound(mean=[0.5])}, ["dataset d: mean was [0.5], is [0.3]"]),
        ({"bound": sample_runs.bound(std=[0.5])}, ["dataset d: std was [0.5], is [0.3]"]),
        ({"task": sample_runs.task(model_code=OTHER, seeds=[0, 2])}, ["model code"]),
        ({"task": sample_runs.task(model_code=OTHER, model="vgg11")}, ["model was 'vgg11', is 'resnet8'"]),
        ({"task": sample_runs.task(recipe={"lr": 0.2})}, ["recipe.lr was 0.2, is 0.1"]),
        (
            {"task": sample_runs.task(model_options={})},
            ["model_options.width is new, 4", "model_options was {}, is gone"],
        ),
        ({"task": sample_runs.task(model_options={"width": 4, "old": 1})}, ["model_options.old was 1, is gone"]),
        ({"variant": sample_runs.variant(method_code=OTHER)}, ["method code"]),
        (
            {"variant": sample_runs.variant(method_code=OTHER, method="no_norm")},
            ["method was 'no_norm', is 'batch_norm'"],
        ),
        ({"variant": sample_runs.variant(options={"eps": 0.2})}, ["options.eps was 0.2, is 0.1"]),
        ({}, ["what a run's id is made of"]),
    ],
)
def test_differences(was: dict[str, Any], expected: list[str]):
    before = sample_runs.record(sample_runs.run(**was)).provenance
    assert states.differences(before, RUN) == expected


def test_time_of_all():
    assert plan.makespan([3, 3, 3], 1) == 9
    assert plan.makespan([3, 3, 3], 2) == 6
    assert plan.makespan([1, 5, 1, 1], 2) == 5
    assert cost.Cost(0.1, 100, 2.0, 0).seconds() == pytest.approx(12)
    assert cost.Cost(0.1, 100, 2.0, 0).seconds(0.5) == pytest.approx(7)


def test_the_stopwatch_ends_a_training_after_its_steps(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(1000))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(clock)))
    watch = cost.Stopwatch("cpu")
    for _ in range(cost.WARM + cost.STEPS - 1):
        assert not watch.due()
    with pytest.raises(cost.Enough):
        watch.due()
    assert watch.step() == 1.0
    short = cost.Stopwatch("cpu")
    short.due()
    assert short.step() == 1.0  # the one there is


@pytest.mark.parametrize(("size", "expected"), [(20, 20), (100, 64)])
def test_predictions_are_measured_as_they_will_be_made(
    size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU one batch of them, or all if they are fewer, counts for the memory of a run, as training does."""
    monkeypatch.setattr(logits, "BATCH_SIZES", {"cpu": size})
    batches: list[int] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if not module.training:
            batches.append(len(given[0]))

    def noted(*arguments: Any) -> Any:
        prepared_run = prepare(*arguments)
        prepared_run.model.register_forward_pre_hook(note)
        return prepared_run

    prepare = cost.classifier.prepare
    monkeypatch.setattr(cost.classifier, "prepare", noted)
    cost.measure(kill_and_resume.run("batch_norm", 0), kill_and_resume.splits())
    assert batches == [expected]


def test_bfloat16_is_advised_where_it_is_much_faster(monkeypatch: pytest.MonkeyPatch):
    """A line for each task of classifiers, by its first variant; the run itself stays as it is."""
    slow = sample_runs.run(task=sample_runs.task(name="slow"))
    quick = sample_runs.run(task=sample_runs.task(name="quick"))
    already = sample_runs.run(task=sample_runs.task(name="already", recipe={"epochs": 2, "precision": "bfloat16"}))
    gan = sample_runs.run(Kind.GAN, task=sample_runs.gan_task(name="gan"))
    costs = {run.cell: cost.Cost(0.19, 10, 1.0, 0) for run in (slow, quick, already, gan)}
    measured: list[Run] = []

    def measure(runs: list[Run], device: str) -> list[cost.Cost]:
        measured.extend(runs)
        return [cost.Cost(0.1 if run.task.name == "slow" else 0.16, 10, 1.0, 0) for run in runs]

    monkeypatch.setattr(cost, "_measured", measure)
    monkeypatch.setattr(cost.devices, "has_bfloat16", lambda kind: kind == "cpu")
    lines = cost.advice([slow, quick, already, gan], costs, "cpu")
    assert lines == ["slow: bfloat16 would be 1.9x as fast here: `precision: bfloat16`"]
    assert [(run.task.name, run.task.recipe.precision) for run in measured] == [
        ("slow", "bfloat16"),
        ("quick", "bfloat16"),
    ]
    assert slow.task.recipe.precision == "float32"
    assert measured[0].id != slow.id  # runs of two precisions are two runs
    assert cost.advice([slow], costs, "mps") == []
