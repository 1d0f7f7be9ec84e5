"""A suite with tasks of segmentation passes through every stage, and its scores are those of its predictions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from normbench.results.report import report
from normbench.results.tables.write import aggregate
from normbench.suite import corrupt, evaluate, resolve, train
from normbench.suite.bind import bind
from stages.download import download
from tests.support import masked

PARAMS = """
suite:
  seeds: [0, 1]
  datasets: [boxes, digits]
  tasks: [boxes-fcn, boxes-authors, small]
  variants: [batch_norm, network_deconvolution]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {names: [contrast, brightness], severities: [1, 5]}
evaluation: {corrupted_examples: 3}
datasets:
  boxes: {source: maskfolder, path: boxes, classes: [ground, box, bar], ignored: 3}
  digits: {source: digits, image_size: 8}
tasks:
  boxes-fcn:
    kind: segmentation
    dataset: boxes
    model: fcn_resnet18
    model_options: {width: 4, aux: true}
    recipe: {epochs: 3, batch_size: 4, crop_size: [16, 24], scale: [0.75, 1.5], lr: 0.05}
  boxes-authors:
    kind: segmentation
    dataset: boxes
    model: fcn_resnet18
    model_options: {width: 4}
    recipe: {epochs: 1, batch_size: 4, base_size: 16, crop_size: 16, protocol: authors, outputs: 6}
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
variants:
  batch_norm: {method: batch_norm}
  network_deconvolution: {method: network_deconvolution}
"""
CELLS = [
    (task, variant)
    for task in ("boxes-fcn", "boxes-authors", "small")
    for variant in ("batch_norm", "network_deconvolution")
]


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setenv("NORMBENCH_STORE", "runs")
    patch.setenv("NORMBENCH_DEVICE", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the evaluation has run."""
    folder = tmp_path_factory.mktemp("segmentation")
    masked.write(folder / "boxes")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        resolve.write()
        for dataset in ("boxes", "digits"):
            download(dataset)
            corrupt.corrupt_intact(dataset)
        bind()
        for cell in CELLS:
            train.train_tasks(*cell)
            evaluate.evaluate(*cell)
    return folder


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it."""
    copy = tmp_path / "project"
    shutil.copytree(whole, copy)
    settle(monkeypatch, copy)
    threads = torch.get_num_threads()
    yield copy
    torch.set_num_threads(threads)


def test_page(project: Path) -> None:
    aggregate()
    report()
