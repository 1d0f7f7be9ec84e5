"""A classifier from its task to its predictions, without anything being stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from normbench.data.batches import Images, on_device
from normbench.data.prepared import Splits
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system.errors import UserError
from normbench.training import classifier
from normbench.training.classifier import Classifier
from normbench.training.loop import Outcome
from normbench.training.task import Task
from tests.support.subjects import bound, recipe, task


def images(seed: int) -> Images:
    """Images whose class is the one quadrant that is bright."""
    chance, labels = torch.Generator().manual_seed(seed), torch.arange(64) % 4
    pixels = torch.randint(0, 40, (64, 8, 8, 1), generator=chance)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 150
    return on_device(pixels.to(torch.uint8), labels, [0.3], [0.3], "cpu")


def prepared(of: Task, seed: int = 0, method: str = "batch_norm") -> Classifier:
    model = models.get(of.model, "classifier")
    return classifier.prepare(of, model, methods.build(method, {}), bound(), seed, Splits(images(0), images(1)))


def trained(of: Task, seed: int = 0) -> tuple[Classifier, Outcome]:
    one = prepared(of, seed)
    return one, classifier.fit(one, of, seed, lambda *_: None)


def test_a_run_is_the_same_twice_and_another_with_another_seed() -> None:
    """Whatever the global generator was; the seed of the suite counts as well as that of the run."""
    short = task(recipe=recipe(epochs=2))
    weights = []
    for of, seed in ((short, 0), (short, 0), (short, 1), (short.model_copy(update={"seed": 1}), 0)):
        torch.manual_seed(len(weights))
        one, outcome = trained(of, seed)
        assert len(outcome.history) == 2
        weights.append(one.model.get_submodule("head").weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not any(torch.equal(weights[0], other) for other in weights[2:])


def test_what_is_measured() -> None:
    one, outcome = trained(task(recipe=recipe(epochs=6, lr=0.05)))
    metrics, predicted = classifier.measure(one, outcome)
    assert predicted is not None
    assert predicted.dtype == np.int32
    with torch.no_grad():
        expected = one.model.eval()(one.test.normalized(one.test.pixels)).argmax(1).numpy()
    np.testing.assert_array_equal(predicted, expected)
    assert metrics["clean_accuracy"] == pytest.approx((expected == np.arange(64) % 4).mean())
    assert metrics["clean_accuracy"] > 0.9
    assert metrics["history"] == outcome.history
    assert metrics["training_set"] == {"images": 64, "flipped_labels": 0.0}
    assert one.parameters == sum(p.numel() for p in one.model.parameters())


def test_a_cpu_does_not_train_in_tf32() -> None:
    """Its record would say so of numbers that are more precise."""
    with pytest.raises(UserError, match=r"recipe\.precision = 'tf32': only GPUs .* compute in TF32"):
        prepared(task(recipe=recipe(precision="tf32")))


def test_deterministic_changes_nothing_on_a_cpu() -> None:
    weights = []
    for deterministic in (False, True):
        one, _ = trained(task(recipe=recipe(deterministic=deterministic)))
        weights.append(one.model.get_submodule("head").weight.detach())
    assert torch.equal(*weights)


def test_what_diverged_has_no_predictions() -> None:
    one = prepared(task())
    one.train = replace(one.train, mean=torch.full((1, 1, 1), float("nan")))
    outcome = classifier.fit(one, task(), 0, lambda *_: None)
    metrics, predicted = classifier.measure(one, outcome)
    assert outcome.diverged == {"epoch": 0, "step": 0}
    assert predicted is None
    assert set(metrics) == {"history", "training_set"}


@pytest.mark.parametrize("lr", [1e30, 3e38])
def test_a_last_step_that_leaves_no_finite_weights_has_diverged(lr: float) -> None:
    """The loss of the only step is that of the weights before it, and finite."""
    one = prepared(task(recipe=recipe(batch_size=64, lr=lr, weight_decay=1e30)))
    outcome = classifier.fit(one, task(), 0, lambda *_: None)
    assert len(outcome.history) == 1
    assert np.isfinite(outcome.history[0]["loss"])
    assert outcome.diverged == {"epoch": 0, "step": 0}
    assert classifier.measure(one, outcome)[1] is None


def test_running_statistics_that_are_not_finite_have_diverged() -> None:
    one = prepared(task())
    next(value for name, value in one.model.named_buffers() if name.endswith("running_var")).fill_(torch.inf)
    assert classifier.fit(one, task(), 0, lambda *_: None).diverged == {"epoch": 0, "step": 3}


def test_memory_of_a_step_grows_with_its_batch() -> None:
    small, large = (classifier.step_memory(prepared(task(recipe=recipe(batch_size=size)))) for size in (16, 64))
    assert 0 < small < large


@pytest.mark.parametrize(
    ("wanted", "expected"), [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)]
)
def test_weights_and_images_have_the_format_of_the_recipe(wanted: str, expected: torch.memory_format) -> None:
    one = prepared(task(recipe=recipe(memory_format=wanted)))
    assert one.train.memory_format == one.test.memory_format == expected
    kernels = [value for value in one.model.parameters() if value.dim() == 4 and min(value.shape[1:]) > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=expected) for kernel in kernels)


def test_threads_are_those_of_the_recipe() -> None:
    before = torch.get_num_threads()
    try:
        prepared(task(recipe=recipe(threads=2)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
