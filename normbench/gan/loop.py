"""The training of one GAN."""

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
from normbench.gan.recipe import GanRecipe
from normbench.methods.base import Method
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper, Nobody

READS = 200  # times that losses are read from the device in a run: for progress, and to see a divergence
POINTS = 20  # entries in the history of a run


Report = Callable[[int, float, float], None]  # iteration, and the mean losses of discriminator and generator


@dataclass
class Outcome:
    """What a training leaves and measured.

    average: the generator with the moving average of the weights, in evaluation mode. history: mean losses of each
    twentieth of the training. diverged: iteration (from 0) of the first loss or weight that was not finite, or None.
    rates: iterations a second between one reading of the losses and the next. seconds: of training, without the saving
    of its state; those of processes that were stopped count too. resumed: the iteration (from 0) at which this process
    took over an unfinished training, or None.
    """

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


def adam(groups: Any, recipe: GanRecipe) -> torch.optim.Optimizer:
    """Adam with the learning rate and moments of a recipe."""
    return torch.optim.Adam(groups, recipe.lr, (recipe.beta1, recipe.beta2), fused=True)


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
    recipe: GanRecipe,
    seed: int,
    report: Report,
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains both networks in place on their device; `report` is called about 200 times.

    In each iteration there are `discriminator_steps` steps of the discriminator, then one of the generator, by the last
    of the images that the discriminator saw. Where `keeper` has a saved state the training goes on from there, and ends
    as if it had never stopped. A loss that is not finite ends the training.
    """
    training = Training(generator, discriminator, method, images, recipe, seed, report, keeper or Nobody())
    training.resume()
    training.run()
    return training.outcome


class Training:
    """A training in progress: both networks, their optimizers, and how far it is.

    step: the iteration from which it goes on, from 0. losses: 0-d pairs on the device that have not been read yet.
    window: pairs that have been read since the last entry of the history.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        method: Method,
        images: Images,
        recipe: GanRecipe,
        seed: int,
        report: Report,
        keeper: Keeper,
    ):
        self.generator, self.discriminator, self.method, self.images = generator, discriminator, method, images
        self.recipe, self.seed, self.report, self.keeper = recipe, seed, report, keeper
        self.noise = Noise(recipe.latent, derive(seed, "noise"), images.pixels.device.type)
        self.trained = list(generator.parameters())
        self.generator_optim = adam(self.trained, recipe)
        self.discriminator_optim = adam(method.param_groups(discriminator, recipe.lr, 0.0), recipe)
        self.outcome = Outcome(copy.deepcopy(generator).eval())
        self.step = 0
        self.losses: list[Tensor] = []
        self.window: list[list[float]] = []
        self.earlier, self.began = 0.0, time.perf_counter()

    @property
    def stateful(self) -> dict[str, Any]:
        """What is saved and restored by its own `state_dict`."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.outcome.average,
            "generator_optim": self.generator_optim,
            "discriminator_optim": self.discriminator_optim,
        }

    def resume(self) -> None:
        """Takes over the state that the keeper has, if there is one."""
        saved = self.keeper.resume()
        if saved is None:
            return
        self.step, self.window = saved["step"], saved["window"]
        self.losses = [pair.to(self.images.pixels.device) for pair in saved["losses"]]
        for name, part in self.stateful.items():
            part.load_state_dict(saved[name])
        self.noise.generator.set_state(saved["noise"])
        self.outcome = Outcome(self.outcome.average, **saved["outcome"], resumed={"step": self.step})
        self.earlier, self.began = self.outcome.seconds, time.perf_counter()

    def run(self) -> None:
        """Trains from the current iteration to the last, or until a loss is not finite."""
        recipe, keeper, outcome = self.recipe, self.keeper, self.outcome
        first_batch = self.step * recipe.discriminator_steps
        real = real_batches(self.images, recipe.batch_size, derive(self.seed, "real"), first_batch)
        self.generator.train()
        self.discriminator.train()
        every = max(1, recipe.iterations // READS)
        begun = not self.losses  # Whether this process made the whole stretch since the last reading.
        start, spent = time.perf_counter(), keeper.spent
        for step in range(self.step, recipe.iterations):
            self.losses.append(self.train_on(real, step))
            last = step + 1 == recipe.iterations
            if len(self.losses) == every or last:
                values = torch.stack(self.losses).tolist()
                bad = next((i for i, pair in enumerate(values) if not all(map(math.isfinite, pair))), None)
                if bad is not None:
                    outcome.diverged = {"step": step + 1 - len(values) + bad}
                    break
                if begun:
                    outcome.rates.append(len(values) / (time.perf_counter() - start - (keeper.spent - spent)))
                begun = True
                self.note(step + 1, values, last)
                start, spent = time.perf_counter(), keeper.spent
            if keeper.due():
                self.save(step + 1)
        self.count_time()
        # The losses were those before the last step, which may have been the one that broke the weights.
        if outcome.diverged is None and not all(v.isfinite().all() for v in outcome.average.state_dict().values()):
            outcome.diverged = {"step": recipe.iterations - 1}

    def train_on(self, real: Iterator[Tensor], step: int) -> Tensor:
        """One iteration; the losses of discriminator and generator, (2,) on the device."""
        for _ in range(self.recipe.discriminator_steps):
            fake = self.generator(self.noise.draw(self.recipe.batch_size))
            loss = discriminator_loss(self.discriminator, self.method, next(real), fake.detach())
            self.discriminator_optim.zero_grad(set_to_none=True)
            loss.backward()
            self.discriminator_optim.step()
        generator_loss = -self.discriminator(fake).mean()
        self.generator_optim.zero_grad(set_to_none=True)
        generator_loss.backward(inputs=self.trained)  # The discriminator's weights need no gradient here.
        self.generator_optim.step()
        update(self.outcome.average, self.generator, self.recipe.average, step)
        return torch.stack([loss.detach(), generator_loss.detach()])

    def note(self, done: int, values: list[list[float]], last: bool) -> None:
        """Reports losses that have been read; twenty times in a run, adds them to the history and saves the state."""
        self.losses, self.window = [], self.window + values
        means = [sum(column) / len(column) for column in zip(*self.window, strict=True)]
        self.report(done, means[0], means[1])
        if len(self.window) >= self.recipe.iterations / POINTS or last:
            entry = {"iteration": done, "discriminator_loss": means[0], "generator_loss": means[1]}
            self.outcome.history.append(entry)
            self.window = []
            self.save(done)

    def count_time(self) -> None:
        """Brings `outcome.seconds` up to date."""
        self.outcome.seconds = self.earlier + time.perf_counter() - self.began - self.keeper.spent

    def save(self, step: int) -> None:
        """Saves everything needed to resume just before this iteration."""
        self.count_time()
        outcome = self.outcome
        state: dict[str, Any] = {
            "step": step,
            "window": self.window,
            "noise": self.noise.generator.get_state(),
            "losses": [pair.cpu() for pair in self.losses],
            "outcome": {"history": outcome.history, "rates": outcome.rates, "seconds": outcome.seconds},
        }
        self.keeper.save(state | {name: part.state_dict() for name, part in self.stateful.items()})
