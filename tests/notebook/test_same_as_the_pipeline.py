"""`compare` and `score` give the numbers that the stages give, which they do without params.yaml, run store and DVC."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normbench
from normbench.results import load, tables
from normbench.runs.networks import initial_classifier, trained_classifier
from normbench.runs.record import Record
from normbench.suite import bind, corrupt, evaluate, resolve, train
from stages import download
from tests.support.suite_folder import outcome

PARAMS = """
suite: {seeds: [0, 4], datasets: [digits], tasks: [small], variants: [plain, group_norm], baseline: plain, gan_tasks: [], gan_variants: []}
corruptions: {names: [fog, gaussian_noise], severities: [1, 4]}
evaluation:
  corrupted_examples: 50
  attacks: {examples: 20, steps: 2, long_examples: 10, long_steps: 3}
  batch_statistics: {batch_size: 100}
  certificates: {examples: 10, steps: 3}
  filters: {examples: 20}
  smoothness: {examples: 5}
datasets: {digits: {source: digits, image_size: 8}}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
variants:
  plain: {method: my_norms.py:Shifted}
  group_norm: {method: group_norm, options: {channels_per_group: 2}}
"""
# A plain norm of somebody's own, with batch norm's statistics.
SOURCE = """
import torch
from torch import nn

class Shifted(nn.BatchNorm2d):
    def __init__(self, num_features, shift: float = 0.1):
        super().__init__(num_features)
        self.shift = shift

    def forward(self, x):
        return super().forward(x) + self.shift
"""
VARIANTS: dict[str, Any] = {
    "plain": "my_norms.py:Shifted",
    "group_norm": ("group_norm", {"channels_per_group": 2}),
}
METHODS = {"plain": "my_norms.py:Shifted", "group_norm": "group_norm"}
SEEDS = [0, 4]
SCORES = {
    "attacks": {"examples": 20, "steps": 2, "long_examples": 10, "long_steps": 3},
    "batch_statistics": {"batch_size": 100},
    "certificates": {"examples": 10, "steps": 3},
    "filters": {"examples": 20},
    "smoothness": {"examples": 5},
}


@dataclass
class Pipeline:
    """A folder in which the stages have run, and the same comparison by `compare`."""

    folder: Path
    compared: normbench.Comparison

    def record(self, variant: str, seed: int) -> Record:
        return Record.read(self.folder / f"build/scores/classification/small/{variant}/{seed}.json")

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"build/data/digits/{name}.npy")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NORMBENCH_STORE", "runs")
        Path("params.yaml").write_text(PARAMS, encoding="utf-8")
        Path("my_norms.py").write_text(SOURCE, encoding="utf-8")
        resolve.write()
        download.download("digits")
        corrupt.corrupt("digits")
        bind.bind()
        for variant in VARIANTS:
            train.train_tasks("small", variant)
            evaluate.evaluate("small", variant)
        before = set(folder.rglob("*"))
        compared = normbench.compare(
            VARIANTS,
            seeds=np.array(SEEDS),
            model_options={"width": 4},
            epochs=1,
            batch_size=128,
            scores=SCORES,
            corruptions=["fog", "gaussian_noise"],
            severities=[4, 1],
            corrupted_examples=50,
            quiet=True,
        )
        assert set(folder.rglob("*")) == before
        yield Pipeline(folder, compared)


def of_content(record: Record) -> dict[str, Any]:
    """A record without what may differ, as `outcome` returns it, and without the names and places of task and data."""
    value = outcome(record).json_value()
    for part, key in (("task", "name"), ("dataset", "path"), ("corrupted", "path")):
        del value["provenance"][part][key]
    return value


def test_each_run_is_that_of_the_pipeline(pipeline: Pipeline) -> None:
    """The whole record: id, weights, and metrics of the training and of all scores."""
    assert list(pipeline.compared.records) == [(variant, seed) for variant in VARIANTS for seed in SEEDS]
    for (variant, seed), found in pipeline.compared.records.items():
        expected = pipeline.record(variant, seed)
        assert found.run == expected.run
        assert found.files["weights.pt"].sha256 == expected.files["weights.pt"].sha256
        assert of_content(found) == of_content(expected)
        assert {"attacks", "smoothness", "features", "corruption_accuracy", "columns"} <= found.metrics.keys()


def test_the_leaderboard(pipeline: Pipeline) -> None:
    board = pipeline.compared
    assert isinstance(board, pd.DataFrame)
    assert list(board.columns) == list(tables.LEADERBOARD)
    clean = {each: [pipeline.record(each, seed).metrics["clean_accuracy"] for seed in SEEDS] for each in VARIANTS}
    assert list(board["variant"]) == sorted(VARIANTS, key=lambda each: -np.mean(clean[each]))
    errors = {}
    for row in board.to_dict("records"):
        variant = row["variant"]
        assert row["clean_accuracy"] == pytest.approx(np.mean(clean[variant]))
        assert row["clean_accuracy_std"] == pytest.approx(np.std(clean[variant], ddof=1))
        under = [pipeline.record(variant, seed).metrics["corruption_accuracy"] for seed in SEEDS]
        errors[variant] = {name: np.mean([1 - np.mean(each[name]) for each in under]) for name in under[0]}
        assert row["corruption_accuracy"] == pytest.approx(1 - np.mean(list(errors[variant].values())))
        assert (row["method"], row["finished"], row["diverged"]) == (METHODS[variant], 2, 0)
        assert row["mce_corruptions"] == 2
    ratios = [errors["group_norm"][name] / errors["plain"][name] for name in errors["plain"]]
    mce = board.set_index("variant")["mce"]
    assert (mce["plain"], mce["group_norm"]) == (pytest.approx(100), pytest.approx(100 * np.mean(ratios)))


def test_the_rows_of_runs_are_those_of_load(pipeline: Pipeline) -> None:
    expected, found = load(pipeline.folder / "build/scores"), pipeline.compared.runs
    measured = ["images_per_second", "peak_memory_mib", "seconds", "task"]  # and the name of the task
    order = ["variant", "seed"]
    one, other = (each.drop(columns=measured).sort_values(order, ignore_index=True) for each in (found, expected))
    pd.testing.assert_frame_equal(one, other)
    assert list(found.columns) == list(expected.columns)


def test_predictions_are_those_beside_the_records(pipeline: Pipeline) -> None:
    table, labels = pipeline.compared.predictions, pipeline.array("test_labels")
    assert list(table.columns) == ["variant", "seed", "corruption", "severity", "image", "label", "predicted"]
    assert not table.duplicated(["variant", "seed", "corruption", "severity", "image"]).any()
    assert len(table) == 4 * (len(labels) + 2 * 2 * 50)
    assert (labels[table["image"]] == table["label"]).all()
    for variant in VARIANTS:
        for seed in SEEDS:
            own = table[(table["variant"] == variant) & (table["seed"] == seed)]
            trained = np.load(pipeline.folder / f"build/trained/small/{variant}/{seed}/predictions.npz")["predicted"]
            clean = own[own["corruption"] == "clean"]
            assert (clean["severity"] == 0).all()
            assert clean["image"].tolist() == list(range(len(labels)))
            assert (clean["predicted"].to_numpy() == trained).all()
            stored = np.load(pipeline.folder / f"build/scores/classification/small/{variant}/{seed}.npz")
            for (name, severity), part in own[own["severity"] > 0].groupby(["corruption", "severity"], observed=True):
                place = stored["names"].tolist().index(name), stored["severities"].tolist().index(severity)
                assert part["image"].tolist() == stored["index"].tolist()
                assert (part["predicted"].to_numpy() == stored["corrupted"][place]).all()
    accuracy = table.assign(right=table["label"] == table["predicted"]).groupby(["variant", "seed"], observed=True)
    assert 0 < accuracy["right"].mean().min() < 1


def test_what_pandas_makes_of_the_leaderboard_keeps_the_rest(pipeline: Pipeline) -> None:
    whole = pipeline.compared
    for frame in (
        whole.copy(),
        whole.sort_values("mce"),
        whole[["variant", "mce"]],
        whole[whole["finished"] > 0].round(3).reset_index(drop=True),
        pickle.loads(pickle.dumps(whole)),
    ):
        assert isinstance(frame, normbench.Comparison)
        pd.testing.assert_frame_equal(frame.runs, whole.runs)
        pd.testing.assert_frame_equal(frame.predictions, whole.predictions)
        assert frame.records == whole.records
    assert len(pd.concat([whole, whole])) == 4
    assert "group_norm" in repr(whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_are_those_of_evaluate(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Of the same weights, whatever state the network and its surroundings are in; and they are left as they were."""
    monkeypatch.chdir(pipeline.folder)
    record = pipeline.record("plain", seed)
    model = trained_classifier(record, Path(f"build/trained/small/plain/{seed}"), "cpu")
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    model.train()
    model.get_submodule("head").eval()
    state, about = copy.deepcopy(model.state_dict()), condition(model)
    before = surroundings()
    with torch.no_grad():
        found = normbench.score(
            model,
            pipeline.array("test_images"),
            pipeline.array("test_labels"),
            mean=record.provenance.dataset.mean,
            std=record.provenance.dataset.std,
            scores={"corruptions": None, **SCORES},
            initial=lambda: initial_classifier(record, "cpu"),
            corruptions=["fog", "gaussian_noise"],
            severities=(1, 4),
            corrupted_examples=50,
            memory_format="channels_last",
            quiet=True,
        )
    assert surroundings() == before
    assert condition(model) == about
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    predictions = found.pop("predictions")
    trained = {"history", "training_set"}
    assert found == {name: value for name, value in record.metrics.items() if name not in trained}
    json.dumps(found, allow_nan=False)
    stored = np.load(f"build/scores/classification/small/plain/{seed}.npz")
    assert set(predictions) == set(stored)
    assert all(np.array_equal(predictions[name], stored[name]) for name in stored)


def condition(model: nn.Module) -> list[Any]:
    """What there is of a network beside its state."""
    modes = [(name, part.training, list(vars(part))) for name, part in model.named_modules()]
    return [modes, [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]]


def surroundings() -> list[Any]:
    """The states of the global generators, and the settings of torch that normbench changes."""
    switches = [torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()]
    switches += [torch.backends.cudnn.allow_tf32, torch.is_grad_enabled(), torch.get_default_dtype()]
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate(), *switches]
