"""Batches that are divided among replicas and processes, against one process and against torch's own DDP."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.data.prepared import Splits
from normbench.functional.joined import Joined, joining, taking_part
from normbench.methods import registry as methods
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from normbench.models import registry as models
from normbench.runs.checkpoint import Checkpoints
from normbench.system import ranks
from normbench.training import classifier
from normbench.training.keeper import Keeper
from normbench.training.loop import Outcome
from normbench.training.recipe import Adversary
from normbench.training.task import Task
from tests.support.subjects import bound, recipe, task
from tests.support.together import each_of
from tests.training.test_classifier import images

SHARED = {"batch_norm": {}, "network_deconvolution": {"block": 8}, "conv_norm": {}, "group_norm": {"groups": 4}}
SHARED |= {"fantastic_four": {}}


def short(**changes: Any) -> Task:
    """A task of two epochs of three batches each, of which the last is smaller."""
    return task(recipe=recipe(**{"epochs": 2, "batch_size": 26, "lr": 0.02} | changes))


def prepared(of: Task, method: str, options: dict[str, Any]) -> classifier.Classifier:
    model = models.get(of.model, "classifier")
    made = methods.build(method, options)
    return classifier.prepare(of, model, made, bound(), 0, Splits(images(0), images(1)))


def trained(
    of: Task, method: str = "batch_norm", options: dict[str, Any] | None = None, keeper: Keeper | None = None
) -> tuple[Outcome, dict[str, Tensor]]:
    one = prepared(of, method, options or {})
    outcome = classifier.fit(one, of, 0, lambda *_: None, keeper)
    state = {name: value for name, value in one.model.state_dict().items() if isinstance(value, Tensor)}
    return outcome, {name: value.clone() for name, value in state.items()}


def assert_same(one: tuple[Outcome, dict[str, Tensor]], other: tuple[Outcome, dict[str, Tensor]], close: float) -> None:
    for a, b in zip(one[0].history, other[0].history, strict=True):
        assert a == pytest.approx(b, rel=close)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=10 * close, atol=10 * close, msg=name)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("method", SHARED)
def test_processes_with_joined_statistics_train_as_one(method: str, count: int) -> None:
    """All losses, and the trained weights and running statistics in each process."""
    alone = trained(short(), method, SHARED[method])
    for found in each_of(count, functools.partial(trained, short(), method, SHARED[method])):
        assert_same(found, alone, 1e-6)


def test_replicas_are_what_ddp_trains() -> None:
    """Two processes of torch's own DistributedDataParallel, each with the batch norm of its part of the batch."""
    of = short(replicas=2, momentum=0.9, drop_last=True)
    alone = trained(of)

    def parallel() -> tuple[list[float], dict[str, Tensor]]:
        one = prepared(of, "batch_norm", {})
        training = classifier.loop.Training(
            one.model, one.method, one.train, of.recipe, derived(of), lambda *_: None, classifier.loop.Nobody()
        )
        network = nn.parallel.DistributedDataParallel(one.model.train())
        losses = []
        for epoch in range(of.recipe.epochs):
            for pixels, labels in training.batches.pixels(epoch, 0, (ranks.rank(), 2)):
                loss = nn.functional.cross_entropy(network(one.train.normalized(pixels)), labels)
                training.optimizer.zero_grad()
                loss.backward()
                training.optimizer.step()
                training.schedule.step()
                losses.append(loss.item())
        return losses, {name: value.clone() for name, value in one.model.state_dict().items()}

    (first, state), (second, _) = each_of(2, parallel)
    steps = len(first) // 2
    for epoch, noted in enumerate(alone[0].history):
        mean = sum(first[epoch * steps :][:steps] + second[epoch * steps :][:steps]) / (2 * steps)
        assert noted["loss"] == pytest.approx(mean, rel=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(alone[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def derived(of: Task) -> int:
    return classifier.derive(of.seed, "order", 0)


@pytest.mark.parametrize("method", ["batch_norm", "network_deconvolution", "iter_norm", "switchable_norm"])
def test_replicas_are_the_same_in_any_number_of_processes(method: str) -> None:
    """For every method, and with a network that draws random numbers."""
    of = short(replicas=4)
    alone = trained(of, method)
    for count in (2, 4):
        found = each_of(count, functools.partial(trained, of, method))
        assert_same(found[0], alone, 1e-5)


@pytest.mark.parametrize("kind", ["free", "pgd"])
def test_adversaries_of_replicas(kind: Any) -> None:
    of = short(replicas=2, adversary=Adversary(kind=kind, steps=2, repeats=2), gradient_clip=1.0)
    alone = trained(of)
    assert_same(each_of(2, functools.partial(trained, of))[0], alone, 1e-5)
    other = trained(of.model_copy(update={"recipe": of.recipe.model_copy(update={"replicas": 1})}))
    assert other[0].history[0]["loss"] != pytest.approx(alone[0].history[0]["loss"], rel=1e-4)


class Interrupted(Checkpoints):
    """Ends the training in the second epoch, after it has saved its state."""

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Any]) -> None:
        super().save(state)
        if (state["epoch"], state["step"]) == (1, 1):
            raise SystemExit(75)


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path: Path, replicas: int, count: int) -> None:
    of = short(replicas=replicas, drop_last=True)
    alone = trained(of)
    ended = each_of(2, lambda: trained(of, keeper=Interrupted(tmp_path)))
    assert [end.code for end in ended] == [75, 75]
    again = functools.partial(trained, of, keeper=Checkpoints(tmp_path))
    found = again() if count == 1 else each_of(count, again)[0]
    assert found[0].resumed == {"epoch": 1, "step": 1}
    assert_same(found, alone, 1e-5)


@pytest.mark.parametrize("method", ["iter_norm", "spectral_batch_norm"])
def test_statistics_that_cannot_be_joined_are_refused(method: str) -> None:
    with pytest.raises(RuntimeError, match=r"recipe\.replicas = 1: a layer of this method .*; set it to 2 for"):
        each_of(2, functools.partial(trained, short(), method))


def test_replicas_that_processes_cannot_share_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"recipe\.replicas = 3: 2 processes cannot share them equally"):
        each_of(2, functools.partial(trained, short(replicas=3)))


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "batch_norm": (nn.BatchNorm2d(6), (6, 5, 4)),
    "batch_norm_1d": (nn.BatchNorm1d(6), (6,)),
    "3x3": (DeconvConv2d(6, 4, 3, padding=1, block=3), (6, 7, 8)),
    "strided": (DeconvConv2d(6, 4, 3, stride=2, padding=1, block=2), (6, 9, 8)),
    "dilated": (DeconvConv2d(6, 4, 3, padding=2, dilation=2, sampling_stride=1), (6, 9, 8)),
    "grouped": (DeconvConv2d(6, 6, 3, padding=1, groups=3), (6, 7, 8)),
    "1x1": (DeconvConv2d(6, 4, 1, block=3), (6, 5, 5)),
    "1x1 of few pixels": (DeconvConv2d(6, 4, 1, block=3), (6, 1, 1)),
    "linear": (DeconvLinear(12, 4, block=6), (12,)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_a_shared_batch_is_that_of_the_whole(name: str, layout: torch.memory_format) -> None:
    """Outputs, gradients of images and parameters, and running statistics in float64, of parts of 1, 4 and 2 images."""
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double().train()
    chance = torch.Generator().manual_seed(0)
    x = torch.randn((7, *shape), generator=chance, dtype=torch.float64) + 0.3
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    parts = [slice(0, 1), slice(1, 5), slice(5, 7)]
    whole = computed(copy.deepcopy(layer), x, slice(0, 7), None)

    def mine() -> Any:
        rows = parts[ranks.rank()]
        batch = Joined(rows.start, rows.stop - rows.start, 7, 3)
        return computed(layer, x, rows, batch)

    found = each_of(3, mine)
    torch.testing.assert_close(torch.cat([part[0] for part in found]), whole[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), whole[1], rtol=1e-7, atol=1e-10)
    for parameter, expected in whole[2].items():
        total = torch.stack([part[2][parameter] for part in found]).sum(0)
        torch.testing.assert_close(total, expected, rtol=1e-7, atol=1e-10, msg=parameter)
    for part in found:
        for buffer, expected in whole[3].items():
            torch.testing.assert_close(part[3][buffer], expected, rtol=1e-9, atol=1e-11, msg=buffer)


def computed(
    layer: nn.Module, x: Tensor, rows: slice, batch: Joined | None
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The outputs of a layer for some rows of a batch, the gradients of these rows and of parameters, and the buffers."""
    mine = x[rows].clone().requires_grad_()
    with joining(batch), taking_part(layer):
        y = layer(mine)
        weights = torch.arange(1, 8, dtype=y.dtype)[rows].view(-1, *[1] * (y.dim() - 1))
        (weights * y.cos()).sum().backward()
    assert mine.grad is not None
    gradients = {name: value.grad for name, value in layer.named_parameters() if value.grad is not None}
    return y.detach(), mine.grad, gradients, dict(layer.named_buffers())
