"""What a run leaves in the store: its record says what it is, and how its numbers were computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from normbench.runs import store
from normbench.runs.contents import contents, optional
from normbench.runs.record import Record
from normbench.runs.run import Kind, Run, Status
from normbench.runs.train import claim_and_train
from tests.support import sample_runs
from tests.support.kill_and_resume import splits


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))


def run(**recipe: Any) -> Run:
    """A run of one epoch of four steps. recipe: what is not the default in it."""
    task = sample_runs.task(recipe={"epochs": 1, "batch_size": 16, "crop_padding": 0} | recipe)
    return sample_runs.run(task=task, variant=sample_runs.variant(options={}))


def trained(one: Run) -> Record:
    assert claim_and_train(one, splits)
    return store.record(one.id)


def weights(one: Run) -> dict[str, torch.Tensor]:
    return torch.load(store.folder(one.id) / "weights.pt", weights_only=True)


def test_the_record_is_that_of_the_run() -> None:
    one = run()
    record = trained(one)
    assert record.run == one.id
    assert record.described_run().id == one.id
    assert (record.kind, record.seed, record.status) == (Kind.CLASSIFICATION, 0, Status.FINISHED)
    assert (record.provenance.task, record.provenance.variant) == (one.task, one.variant)
    assert record.provenance.dataset == one.bound
    assert record.provenance.device.type == "cpu"
    assert record.provenance.started <= record.provenance.ended
    assert len(record.metrics["history"]) == len(record.cost.epoch_seconds) == 1
    assert record.cost.resumed is None
    left = {path.name for path in store.folder(one.id).iterdir()}
    assert left == {"record.json", *contents(Kind.CLASSIFICATION, Status.FINISHED)}


def test_a_finished_run_is_not_trained_again() -> None:
    one = run()
    trained(one)
    before = {path: path.read_bytes() for path in store.folder(one.id).iterdir()}

    def images() -> Any:
        raise AssertionError("nobody needs them")

    assert not claim_and_train(one, images)
    assert {path: path.read_bytes() for path in store.folder(one.id).iterdir()} == before


def test_a_run_that_diverges_leaves_its_weights_and_says_where() -> None:
    one = run(lr=1e30, warmup_epochs=0.0)
    record = trained(one)
    assert record.status is Status.DIVERGED
    assert record.diverged is not None
    assert "clean_accuracy" not in record.metrics
    left = {path.name for path in store.folder(one.id).iterdir()}
    assert left == {"record.json", *contents(Kind.CLASSIFICATION, Status.DIVERGED)}


def test_the_recipe_says_in_which_precision_a_run_trains() -> None:
    """Nothing is chosen by the machine: each precision is a run of its own, with other numbers."""
    full, half = run(), run(precision="bfloat16")
    assert full.id != half.id
    records = [trained(full), trained(half)]
    assert [record.provenance.numerics.precision for record in records] == ["float32", "bfloat16"]
    assert records[0].metrics["history"] != records[1].metrics["history"]
    # Autocast: the weights stay in float32, and their last digits are others.
    for one in (full, half):
        assert {value.dtype for value in weights(one).values()} <= {torch.float32, torch.int64}
    losses = [record.metrics["history"][-1]["loss"] for record in records]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_recipe_says_in_which_memory_format_a_run_trains() -> None:
    last, first = run(), run(memory_format="contiguous")
    assert last.id != first.id
    assert trained(last).provenance.numerics.memory_format == "channels_last"
    assert trained(first).provenance.numerics.memory_format == "contiguous"


def test_the_recipe_says_with_how_many_threads_a_run_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many this process has."""
    one, two = run(), run(threads=2)
    assert one.id != two.id
    before, seen = torch.get_num_threads(), []
    original = torch.optim.SGD.step

    def step(*arguments: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return original(*arguments, **named)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    try:
        torch.set_num_threads(2)
        assert trained(one).provenance.numerics.threads == 1
        assert set(seen) == {1}
        seen.clear()
        assert trained(two).provenance.numerics.threads == 2
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)


def test_a_gan_has_its_numerics_in_its_record() -> None:
    recipe = {"iterations": 2, "batch_size": 16, "latent": 8}
    one = sample_runs.run(Kind.GAN, task=sample_runs.gan_task(recipe=recipe), variant=sample_runs.variant(options={}))
    record = trained(one)
    assert record.described_run().id == one.id
    assert record.provenance.numerics.precision == "float32"
    assert record.provenance.numerics.threads == 1
    left = {path.name for path in store.folder(one.id).iterdir()}
    assert left == {
        "record.json",
        *contents(Kind.GAN, Status.FINISHED),
        *optional(Kind.GAN, Status.FINISHED),
    }
