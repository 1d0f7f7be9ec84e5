"""A run that goes on in another memory format than that of its checkpoint: the same training, with state laid out anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from normbench.functional import placement
from normbench.gan import loop as gan_loop
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.models.build import new_classifier, new_gan
from normbench.runs.checkpoint import Checkpoints
from normbench.system.schema import MemoryFormat
from normbench.training import loop
from normbench.training.recipe import Recipe
from tests.support import kill_and_resume, sample_runs

METHODS = ["batch_norm", "spectral_norm", "conv_norm", "network_deconvolution"]
FORMATS: list[tuple[MemoryFormat, MemoryFormat]] = [("contiguous", "channels_last"), ("channels_last", "contiguous")]


class Stopped(Exception):
    pass


def stop(*progress: Any) -> None:
    if progress[0] >= 1:
        raise Stopped


def strides(x: Tensor) -> list[int]:
    """The strides that matter, to torch's fused optimizers too: not those along dimensions of one element."""
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1]


def laid_out_otherwise(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, ...]]:
    """The shapes of parameters of which some state, or the gradient, has other strides."""
    for parameter, state in optimizer.state.items():
        tensors = [value for value in state.values() if torch.is_tensor(value) and value.shape == parameter.shape]
        assert tensors
        if parameter.grad is not None:
            tensors.append(parameter.grad)
        if any(strides(value) != strides(parameter) for value in tensors):
            yield tuple(parameter.shape)


def classifier_training(
    method: str, wanted: MemoryFormat, folder: Path, report: loop.Report = lambda *_: None
) -> loop.Training:
    """A training of layers that are wide enough for channels_last."""
    one = methods.build(method, {})
    network = placement.placed(new_classifier(models.get("resnet8"), {"width": 16}, one, 1, 4, 0), "cpu", wanted)
    images = kill_and_resume.images(0).made_for(network, wanted)
    recipe = Recipe(epochs=3, batch_size=kill_and_resume.BATCH, crop_padding=1, lr=0.02, memory_format=wanted)
    network.train()
    return loop.Training(network, one, images, recipe, 0, report, Checkpoints(folder, 10))


def run(training: loop.Training) -> None:
    training.resume()
    for epoch in range(training.epoch, training.recipe.epochs):
        training.run_epoch(epoch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("before", "after"), FORMATS)
def test_a_classifier(method: str, before: MemoryFormat, after: MemoryFormat, tmp_path: Path) -> None:
    """The next step is that of a run that goes on in the same format, up to rounding, and the training ends well."""
    with pytest.raises(Stopped):
        run(classifier_training(method, before, tmp_path, stop))
    steps: list[list[Tensor]] = []
    for wanted in (before, after):
        resumed = classifier_training(method, wanted, tmp_path)
        resumed.resume()
        assert resumed.epoch == 1
        assert list(laid_out_otherwise(resumed.optimizer)) == []
        resumed.meter.reset()
        pixels, labels = next(resumed.batches.pixels(1))
        resumed.train_on(1, 0, pixels, labels)
        state = [state["momentum_buffer"] for state in resumed.optimizer.state.values()]
        steps.append([*resumed.model.state_dict().values(), *state])
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    last = classifier_training(method, after, tmp_path)
    run(last)
    assert list(laid_out_otherwise(last.optimizer)) == []
    assert last.outcome.diverged is None
    assert last.outcome.history[-1]["loss"] < last.outcome.history[0]["loss"]


def test_the_formats_of_these_tests_differ(tmp_path: Path) -> None:
    """Else nothing would have to be laid out anew."""
    found = [
        [strides(p) for p in classifier_training("batch_norm", wanted, tmp_path).model.parameters()]
        for wanted in ("contiguous", "channels_last")
    ]
    assert found[0] != found[1]


def gan_training(method: str, wanted: MemoryFormat, folder: Path, report: Any = lambda *_: None) -> gan_loop.Training:
    one = methods.build(method, {})
    recipe = sample_runs.gan_task(recipe={"iterations": 40, "batch_size": 16, "latent": 8}).recipe
    networks = new_gan(models.get("sngan", "gan"), {"width": 16}, one, 1, 8, recipe.latent, 0)
    generator, discriminator = (placement.placed(network, "cpu", wanted) for network in networks)
    images = kill_and_resume.images(0).made_for(discriminator, wanted)
    setting = gan_loop.Setting(one, recipe, 0)
    return gan_loop.Training(generator, discriminator, images, setting, report, Checkpoints(folder, 10))


@pytest.mark.parametrize("method", ["batch_norm", "spectral_norm"])
@pytest.mark.parametrize(("before", "after"), FORMATS)
def test_a_gan(method: str, before: MemoryFormat, after: MemoryFormat, tmp_path: Path) -> None:
    def stop_later(done: int, *_: float) -> None:
        if done == 20:
            raise Stopped

    first = gan_training(method, before, tmp_path, stop_later)
    first.resume()
    with pytest.raises(Stopped):
        first.run()
    steps: list[Tensor] = []
    for wanted in (before, after):
        resumed = gan_training(method, wanted, tmp_path)
        resumed.resume()
        assert 0 < resumed.step < 20
        for optimizer in (resumed.generator_optim, resumed.discriminator_optim):
            assert list(laid_out_otherwise(optimizer)) == []
        real = gan_loop.real_batches(resumed.images, resumed.recipe.batch_size, 0, resumed.step)
        steps.append(torch.stack([resumed.train_on(real, resumed.step + step) for step in range(2)]))
    torch.testing.assert_close(*steps, rtol=1e-3, atol=1e-4)
    last = gan_training(method, after, tmp_path)
    last.resume()
    last.run()
    assert last.outcome.diverged is None
    for optimizer in (last.generator_optim, last.discriminator_optim):
        assert list(laid_out_otherwise(optimizer)) == []
