"""What a suite is said to cost before its data are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normbench.cli import app
from normbench.data.sources import registry as sources
from normbench.suite import trial
from normbench.sweep import rough
from tests.support.project import ROOT

PARAMS = """\
suite:
  seeds: [0, 1, 2]
  datasets: [digits, cifar10]
  tasks: [small, large, half]
  variants: [batch_norm, ocnn]
  baseline: batch_norm
  gan_tasks: [gan]
  gan_variants: [batch_norm]
tasks:
  small: {dataset: digits, model: resnet8, recipe: {epochs: 2, batch_size: 64}}
  large: {dataset: cifar10, model: resnet20, recipe: {epochs: 3, batch_size: 128}}
  half: {dataset: cifar10, model: resnet20, recipe: {epochs: 3, batch_size: 128}, train_fraction: 0.5}
gan_tasks:
  gan: {dataset: cifar10, model: sngan, recipe: {iterations: 1000, batch_size: 64}}
variants:
  batch_norm: {method: batch_norm}
  ocnn: {method: ocnn}
"""
STEPS = {"small": 2 * 23, "large": 3 * 391, "half": 3 * 196, "gan": 1000}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_DEVICE", "cpu")
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def test_each_run_is_its_steps_times_the_time_of_one(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 2 s and 10 ms an image, here; what is alike is measured once."""
    measured: list[tuple[str, int]] = []

    def step(cell: trial.Cell, count: int, _: str) -> float:
        measured.append((cell.task.model, count))
        return 2 + 0.01 * count

    monkeypatch.setattr(rough, "_measured", step)
    found = rough.estimate(rough.resolve(), "cpu")
    assert found.unknown == []
    for task, steps in STEPS.items():
        for variant in ("batch_norm",) if task == "gan" else ("batch_norm", "ocnn"):
            for seed in (0, 1, 2):
                batch = 128 if task in ("large", "half") else 64
                expected = steps * (2 + 0.01 * batch)
                assert found.seconds[f"{task} {variant} seed {seed}"] == pytest.approx(expected)
    assert sorted(measured) == sorted(
        [(model, count) for model in ("resnet8", "resnet20") for count in (rough.FEW, rough.MORE) for _ in range(2)]
        + [("sngan", rough.FEW), ("sngan", rough.MORE)]
    )


def test_a_quick_step_is_measured_with_its_whole_batch(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_measured", lambda cell, count, device: 0.001 * count)
    found = rough.estimate(rough.resolve(), "cpu")
    assert found.seconds["large ocnn seed 0"] == pytest.approx(3 * 391 * 0.128)


def test_real_steps_are_measured(params: Path) -> None:
    """Of a classifier, a penalty and a GAN, without any data."""
    params.write_text(PARAMS.replace("tasks: [small, large, half]", "tasks: [small]", 1))
    found = rough.estimate(rough.resolve(), "cpu")
    assert len(found.seconds) == 2 * 3 + 3
    assert all(0 < seconds < 1e5 for seconds in found.seconds.values())


def test_what_is_not_known_is_named(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_measured", lambda *_: 1.0)
    monkeypatch.setattr(sources.source_class("cifar10"), "train_images", None)
    lines = rough.of_params()
    assert lines[0] == "21 runs: 3 tasks x 2 variants x 3 seeds, 1 task x 1 variant x 3 seeds of GANs"
    assert lines[-1].startswith("not in this estimate")
    assert lines[-1].endswith(": large, half")


def test_the_numbers_of_training_images_are_those_of_the_sources() -> None:
    """Of the digits, which are here; those of the downloads are facts of their papers."""
    from sklearn.datasets import load_digits

    total, digits = len(load_digits().target), sources.source_class("digits")
    assert digits.train_images is not None
    assert 0.19 * total < total - digits.train_images < 0.21 * total
    for name in sources.names():
        source = sources.source_class(name)
        assert (source.train_images is None) == (source.native_size is None), name


def test_selecting_a_suite_says_what_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of the library becomes a params.yaml of its own, which the list marks as selected."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rough, "_measured", lambda *_: 0.1)
    monkeypatch.setenv("NORMBENCH_DEVICE", "cpu")
    shutil.copytree(ROOT / "suites", tmp_path / "suites")
    done = CliRunner().invoke(app, ["suite", "convnorm-standard"])
    assert done.exit_code == 0, done.output
    assert "params.yaml is suites/convnorm-standard.yaml now" in done.output
    assert "24 runs: 2 tasks x 4 variants x 3 seeds" in done.output
    assert "of training on" in done.output
    # 150 epochs of 391 steps of 0.1 s.
    assert "the longest run is convnorm-cifar100 batch_norm seed 0: 1 h 37 min" in done.output
    listed = CliRunner().invoke(app, ["suite"]).output
    assert "* convnorm-standard: ConvNorm's standard training" in listed
    assert "library" not in listed
    again = CliRunner().invoke(app, ["suite", "nd-mnist", "--no-measure"])
    assert "48 runs: 4 tasks x 4 variants x 3 seeds" in again.output
    assert "had edits" not in again.output
