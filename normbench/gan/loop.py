"""The training of one GAN. What this file and its imports say shapes a run's outcome, and is in its id."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.batches import Batches, Images
from normbench.methods.base import Method
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper, Nobody

READS = 200  # times that losses are read from the device in a run: for progress, and to see a divergence
POINTS = 20  # entries in the history of a run


@dataclass
class Outcome:
    """average: the generator with the moving average of the weights, in evaluation mode. history: mean losses of each
    twentieth of the training. diverged: iteration (from 0) of the first loss or weight that was not finite,
    or None. rates: iterations a second between one reading of the losses and the next. seconds: of training without
    the saving of its state, those of processes that were stopped included. resumed: the iteration (from 0) that this
    process began with, where another had begun the training."""

    average: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    diverged: dict[str, int] | None = None
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    resumed: dict[str, int] | None = None


class Noise:
    """Normal noise (count, latent), drawn on the CPU, so that every device sees the same."""

    def __init__(self, latent: int, seed: int, device: str):
        self.generator, self.latent, self.device = torch.Generator().manual_seed(seed), latent, device

    def draw(self, count: int) -> Tensor:
        return torch.randn(count, self.latent, generator=self.generator).to(self.device)


def real_batches(images: Images, batch_size: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Shuffled images (batch_size, C, H, W) in -1..1, as a generator makes them, epoch after epoch without an end; from
    batch `first` on."""
    half = torch.full_like(images.mean, 0.5)
    signed = replace(images, mean=half, std=half)
    batches = Batches(signed, batch_size, 0, False, len(images) >= batch_size, seed)
    epoch, step = divmod(first, batches.steps)
    for number in itertools.count(epoch):
        for x, _ in batches.epoch(number, step if number == epoch else 0):
            yield x


def adam(groups: Any, recipe: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, recipe["lr"], (recipe["beta1"], recipe["beta2"]), fused=True)


def discriminator_loss(discriminator: nn.Module, method: Method, real: Tensor, fake: Tensor) -> Tensor:
    """The hinge loss and the method's penalty, 0-d.

    Real and generated images are separate batches, as in the authors' code (pfnet-research/sngan_projection at revision
    ab97f6bc): a batch norm that sees both at once is another network.
    """
    hinge = functional.relu(1 - discriminator(real)).mean() + functional.relu(1 + discriminator(fake)).mean()
    penalty = method.penalty(discriminator)
    return hinge if penalty is None else hinge + penalty


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float, step: int) -> None:
    """Moves the average, running statistics included, towards the generator; faster in the first iterations, so that
    nothing is left of the initial weights."""
    weight = 1 - min(decay, step / (step + 10))
    for kept, new in zip(average.state_dict().values(), generator.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, weight)
        else:
            kept.copy_(new)


def fit(
    generator: nn.Module,
    discriminator: nn.Module,
    method: Method,
    images: Images,
    recipe: dict[str, Any],
    seed: int,
    report: Callable[[int, float, float], None],
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains both in place on their device; `report(iteration, discriminator loss, generator loss)` about 200 times.

    In each iteration there are `discriminator_steps` steps of the discriminator, then one of the generator, by the last
    of the images that the discriminator saw. It goes on from the state that `keeper` has, where it has one, and ends as
    if it had never stopped. A loss that is not finite ends the training.
    """
    iterations, count = recipe["iterations"], recipe["batch_size"]
    noise = Noise(recipe["latent"], derive(seed, "noise"), images.pixels.device.type)
    trained = list(generator.parameters())
    generator_optim = adam(trained, recipe)
    discriminator_optim = adam(method.param_groups(discriminator, recipe["lr"], 0.0), recipe)
    outcome, keeper = Outcome(copy.deepcopy(generator).eval()), keeper or Nobody()
    stateful: dict[str, Any] = {
        "generator": generator,
        "discriminator": discriminator,
        "average": outcome.average,
        "generator_optim": generator_optim,
        "discriminator_optim": discriminator_optim,
    }
    every = max(1, iterations // READS)
    losses: list[Tensor] = []
    window: list[list[float]] = []
    first = 0
    if (saved := keeper.resume()) is not None:
        first, window = saved["step"], saved["window"]
        losses = [pair.to(images.pixels.device) for pair in saved["losses"]]
        for name, part in stateful.items():
            part.load_state_dict(saved[name])
        noise.generator.set_state(saved["noise"])
        outcome = Outcome(outcome.average, **saved["outcome"], resumed={"step": first})
    earlier, began = outcome.seconds, time.perf_counter()

    def save(step: int) -> None:
        """What is to be known to go on before an iteration."""
        outcome.seconds = earlier + time.perf_counter() - began - keeper.spent
        done = {"history": outcome.history, "rates": outcome.rates, "seconds": outcome.seconds}
        state = {"step": step, "window": window, "noise": noise.generator.get_state()}
        state["losses"] = [pair.cpu() for pair in losses]
        keeper.save(state | {"outcome": done} | {name: part.state_dict() for name, part in stateful.items()})

    real = real_batches(images, count, derive(seed, "real"), first * recipe["discriminator_steps"])
    generator.train()
    discriminator.train()
    begun = not losses  # whether this process made all of a stretch
    start, spent = time.perf_counter(), keeper.spent
    for step in range(first, iterations):
        for _ in range(recipe["discriminator_steps"]):
            fake = generator(noise.draw(count))
            loss = discriminator_loss(discriminator, method, next(real), fake.detach())
            discriminator_optim.zero_grad(set_to_none=True)
            loss.backward()
            discriminator_optim.step()
        generator_loss = -discriminator(fake).mean()
        generator_optim.zero_grad(set_to_none=True)
        generator_loss.backward(inputs=trained)  # the discriminator's weights need no gradient here
        generator_optim.step()
        update(outcome.average, generator, recipe["average"], step)

        losses.append(torch.stack([loss.detach(), generator_loss.detach()]))
        last = step + 1 == iterations
        if len(losses) == every or last:
            values = torch.stack(losses).tolist()
            bad = next((i for i, pair in enumerate(values) if not all(map(math.isfinite, pair))), None)
            if bad is not None:
                outcome.diverged = {"step": step + 1 - len(values) + bad}
                break
            if begun:
                outcome.rates.append(len(values) / (time.perf_counter() - start - (keeper.spent - spent)))
            begun = True
            losses, window = [], window + values
            means = [sum(column) / len(column) for column in zip(*window, strict=True)]
            report(step + 1, means[0], means[1])
            if len(window) >= iterations / POINTS or last:
                entry = {"iteration": step + 1, "discriminator_loss": means[0], "generator_loss": means[1]}
                outcome.history.append(entry)
                window = []
                save(step + 1)
            start, spent = time.perf_counter(), keeper.spent
        if keeper.due():
            save(step + 1)
    outcome.seconds = earlier + time.perf_counter() - began - keeper.spent
    # The losses were those before the last step, which may have been the one that broke the weights.
    if outcome.diverged is None and not all(v.isfinite().all() for v in outcome.average.state_dict().values()):
        outcome.diverged = {"step": iterations - 1}
    return outcome
