"""A method in a small network, as the checks of the kit see it, and the two ways in which a check can end badly."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.checks import subjects
from normbench.checks.network import Examination
from normbench.checks.watch import ASPECTS, Layer, Subject, Watch
from normbench.data.bound import Bound
from normbench.methods.base import Method
from normbench.models import registry as models
from normbench.system import blame
from normbench.training.recipe import Recipe
from normbench.training.task import Task

CLASSES, CHANNELS = 10, 3
COUNT = 4  # images in a batch
LR = 1e-3  # of the few steps on noise that several checks train
# The networks by their registered names, with the side of their images: a plain, a residual and a pre-activation one.
SIDES = {"vgg11": 32, "resnet8": 12, "preact_resnet18": 16}
WIDTHS = 8, 32  # channels of the first stage; the second for layers that need a multiple of 32


class Fail(Exception):
    """What a check found to be wrong. seen: what was seen, in one line. advice: what to do about it."""

    def __init__(self, seen: str, advice: str = ""):
        super().__init__(seen)
        self.seen, self.advice = seen, advice


class Warn(Fail):
    """What a check found that is doubtful, or that the method cannot do by its nature."""


@dataclass
class Case:
    """A method in one of the networks.

    model: the name of the network. side: of its images, in pixels. quick: whether checks do less, for the tests.
    """

    method: Method
    model: str
    side: int
    width: int
    quick: bool

    def subject(self, side: int | None = None) -> Subject:
        """The network as the suite's own check takes it, for images of another side if one is given."""
        entry = models.get(self.model, "classifier")
        task = Task(
            name=self.model,
            dataset="noise",
            model=self.model,
            model_options={"width": self.width},
            recipe=Recipe(epochs=1, batch_size=COUNT, lr=LR, memory_format="contiguous"),
            seed=0,
            seeds=[0],
            model_code="",
        )
        bound = Bound.model_construct(  # without the checks, as there are no files
            name="noise",
            path="",
            fingerprint="",
            classes=CLASSES,
            channels=CHANNELS,
            image_size=side or self.side,
            train=0,
            test=0,
            mean=[0.5] * CHANNELS,
            std=[0.25] * CHANNELS,
            origin="",
        )
        return subjects.classifier_subject(task, entry, self.method, bound, self.model)

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        return self.subject().files

    @functools.cached_property
    def draws(self) -> bool:
        """Whether a training step draws from torch's global generator."""
        network = self.network()
        torch.manual_seed(0)
        before = torch.get_rng_state()
        self.loss(network, self.images())
        return not torch.equal(before, torch.get_rng_state())

    def place(self, error: BaseException) -> str | None:
        """The file and line in somebody's own code in which an exception was raised, or None."""
        return blame.place(error, self.files)

    def network(self) -> nn.Module:
        """The network in training mode, float32 and contiguous on the CPU, built from seed 0."""
        return self.subject().build(self.method)

    def images(self, count: int = COUNT, side: int | None = None, seed: int = 0) -> Tensor:
        """Noise with mean 0 and variance 1, float32 (count, 3, side, side)."""
        shape = (count, CHANNELS, side or self.side, side or self.side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def loss(self, network: nn.Module, x: Tensor) -> Tensor:
        """The loss of a training step with the method's penalty, for labels that are all different."""
        return self.subject().loss(network, self.method, x)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the suite over the method's groups, with learning rates of at most `LR`."""
        optimizer = self.subject().optimizer(network, self.method)
        for group in optimizer.param_groups:
            group["lr"] = min(group["lr"], LR)
        return optimizer

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
        """Trains on one batch; returns the loss."""
        loss = self.loss(network.train(), x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    def trained(self, steps: int = 3) -> nn.Module:
        """A network after a few steps on noise, in training mode."""
        network = self.network()
        optimizer = self.optimizer(network)
        for number in range(steps):
            self.step(network, optimizer, self.images(seed=number))
        optimizer.zero_grad(set_to_none=True)
        return network.train()

    def examination(self, aspects: Iterable[str] = ()) -> Examination:
        """The steps of the suite's own check, which look at some of `ASPECTS` alone."""
        subject = self.subject()
        return Examination(subject, Watch(subject, frozenset(aspects) & ASPECTS))

    @contextlib.contextmanager
    def watched(self, aspect: str, double: bool = False) -> Iterator[nn.Module]:
        """A network whose layers are checked in each call as the suite's own check does, for one of `ASPECTS`.

        double: whether its numbers are float64.
        """
        examination = self.examination([aspect])
        network = examination.built()
        network = network.double() if double else network
        with blame.in_one_line(self.model, examination.watch.located), examination.watch.calls(network):
            yield network


def kinds_of_layers(case: Case, double: bool = False) -> list[tuple[Layer, Tensor]]:
    """The first layer of each kind that the method makes for the network, and what it is given of a batch of noise.

    Layers are of one kind if the same hook has made them and they have the same class. double: in float64.
    """
    examination = case.examination()
    network, x = examination.built(), case.images()
    network, x = (network.double(), x.double()) if double else (network, x)
    kinds: dict[tuple[str, type], Layer] = {}
    for layer in examination.watch.layers:
        kinds.setdefault((layer.hook, type(layer.module)), layer)
    inputs: dict[int, Tensor] = {}
    handles = [
        layer.module.register_forward_pre_hook(lambda module, given: inputs.setdefault(id(module), given[0].detach()))
        for layer in kinds.values()
    ]
    with torch.no_grad():  # so that nothing with a graph is kept by a layer, which then could not be copied
        network(x)
    for handle in handles:
        handle.remove()
    return [(layer, inputs[id(layer.module)].clone()) for layer in kinds.values() if id(layer.module) in inputs]


@torch.no_grad()
def evaluate(network: nn.Module, x: Tensor) -> Tensor:
    """The logits of images in evaluation mode."""
    return network.eval()(x)


def difference(one: Tensor, other: Tensor) -> float:
    """The root mean square difference of two tensors, relative to that of the first from its mean over the batch.

    It is infinite where a value is not finite.
    """
    one, other = one.double(), other.double()
    scale = (one - one.mean(0)).square().mean().sqrt() + 1e-12 * one.square().mean().sqrt() + 1e-30
    found = ((one - other).square().mean().sqrt() / scale).item()
    return found if found < float("inf") else float("inf")


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradients of the parameters that have one, by name."""
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def state(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors in the state of a network, by name."""
    return {key: value.clone() for key, value in network.state_dict().items() if isinstance(value, Tensor)}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not the same bits, or are in one of the two alone."""
    same = {key for key in before.keys() & after.keys() if _same(before[key], after[key])}
    return [key for key in {**before, **after} if key not in same]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
