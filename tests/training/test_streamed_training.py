"""Training on streamed images: resumed in the middle of an epoch, with any number of processes, in the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.data import streamed
from normbench.data.batches import Images
from normbench.data.bound import Bound
from normbench.data.labels import LabelNoise
from normbench.data.prepare import prepare
from normbench.methods.batch_norm import BatchNorm
from normbench.models import registry as models
from normbench.models.build import new_classifier
from normbench.runs import code
from normbench.suite.runs import bound_dataset
from normbench.training.logits import logits
from normbench.training.loop import fit
from normbench.training.recipe import Recipe
from normbench.training.training_set import training_set
from tests.support import photographs, sample_runs
from tests.support.prepared import spec


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bound:
    monkeypatch.chdir(tmp_path)
    photographs.made(Path("photos"))
    out = Path("build/data/mine")
    out.mkdir(parents=True)
    prepare(spec("streamed", path="photos", image_size=32, resize=36), out)
    return bound_dataset("mine")


class Interrupted(Exception):
    """Ends a training."""


class Keeper:
    """Saves the state after some steps, and ends the training there. state: what it resumes from."""

    spent = 0.0

    def __init__(self, steps: int | None = None, state: dict[str, Any] | None = None):
        self.left, self.state = steps, state

    def resume(self) -> dict[str, Any] | None:
        return self.state

    def due(self) -> bool:
        self.left = None if self.left is None else self.left - 1
        return self.left == 0

    def save(self, state: dict[str, Any]) -> None:
        if self.left == 0:
            self.state = {**state, "model": {name: each.clone() for name, each in state["model"].items()}}
            raise Interrupted


def network() -> nn.Module:
    return new_classifier(models.get("resnet8"), {"width": 4}, BatchNorm(), 3, 3, 0)


RECIPE = Recipe(epochs=2, batch_size=5, lr=0.05, crop="resized", flip=True, label_smoothing=0.1)


def trained(images: Images, keeper: Keeper | None = None) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    model = network()
    outcome = fit(model, BatchNorm(), images, RECIPE, 3, lambda *_: None, keeper or Keeper())
    return model.state_dict(), outcome.history


@pytest.mark.parametrize("steps", [2, 6])
def test_resuming_gives_the_same_bits(bound: Bound, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch has 5 steps: it is interrupted in the first and in the second, and goes on with other processes."""
    images = streamed.load(bound, "cpu").train
    monkeypatch.setenv("NORMBENCH_WORKERS", "0")
    wanted, history = trained(images)
    monkeypatch.setenv("NORMBENCH_WORKERS", "2")
    keeper = Keeper(steps)
    with pytest.raises(Interrupted):
        trained(images, keeper)
    monkeypatch.setenv("NORMBENCH_WORKERS", "1")
    found, history_now = trained(images, Keeper(state=keeper.state))
    assert history_now == history
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_a_run_is_not_trained_by_other_code(bound: Bound) -> None:
    run = sample_runs.run(bound=bound)
    here = dataclasses.replace(
        run,
        code=code.training(run.kind),
        task=run.task.model_copy(update={"model_code": code.model(run.task.model)}),
        variant=run.variant.model_copy(update={"method_code": code.method(run.variant.method)}),
    )
    assert code.problem(here) is None
    other = dataclasses.replace(here, bound=bound.model_copy(update={"reader_code": "0" * 64}))
    problem = code.problem(other)
    assert problem == "the reading of streamed images here is not that of the run: bring the code up to date"


def test_label_noise_and_a_part_of_the_images(bound: Bound) -> None:
    images = streamed.load(bound, "cpu").train
    task = sample_runs.task(recipe={}).model_copy(
        update={"train_fraction": 0.5, "label_noise": LabelNoise(fraction=0.4, kind="cyclic")}
    )
    part, facts = training_set(images, task, 3)
    assert facts["images"] == len(part) == 12
    everything = images.pixels[:]
    for image, label in zip(part.pixels[:], part.labels.tolist(), strict=True):
        place = next(i for i, each in enumerate(everything) if torch.equal(each, image))
        assert label in (place // 8, (place // 8 + 1) % 3)
    assert 0 < facts["flipped_labels"] < 1


def test_normalized_images_are_those_of_images_in_memory(bound: Bound) -> None:
    splits = streamed.load(bound, "cpu")
    pixels = splits.test.pixels[:]
    last = splits.train.made_for(network())
    assert last.memory_format is torch.channels_last
    for images in (splits.train, last):
        held = Images(pixels, splits.test.labels, images.mean, images.std, images.memory_format)
        assert torch.equal(images.normalized(pixels), held.normalized(pixels))
        assert images.normalized(pixels).stride() == held.normalized(pixels).stride()


def test_logits_of_mapped_images_are_those_of_images_in_memory(bound: Bound) -> None:
    test = streamed.load(bound, "cpu").test
    held = Images(test.pixels[:], test.labels, test.mean, test.std)
    assert torch.equal(
        logits(network(), test, test.pixels, "float32", 5), logits(network(), held, held.pixels, "float32", 5)
    )
