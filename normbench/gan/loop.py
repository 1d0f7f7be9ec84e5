"""The training loop of a GAN."""

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
from normbench.methods.base import START, Method, Moment
from normbench.system.seeds import derive
from normbench.system.transfer import to_device
from normbench.training.keeper import Keeper, Nobody
from normbench.training.optimization import restore

READS = 200  # how often losses are read from the device in a run, to show progress and to detect divergence
POINTS = 20  # entries in the history of a run


# Called with the iterations done, and the mean losses of discriminator and generator since the last history entry.
Report = Callable[[int, float, float], None]


@dataclass
class Outcome:
    """What training produced and measured.

    average: the generator with the moving average of the weights, in evaluation mode.
    history: one entry for each twentieth of the training: `iteration`, mean `discriminator_loss`, `generator_loss`.
    diverged: the iteration (from 0) of the first loss or weight that was not finite, as `step`, or None.
    rates: iterations per second between consecutive readings of the losses.
    seconds: total training time, including that of earlier, interrupted processes, without time spent saving state.
    resumed: the iteration (from 0), as `step`, at which this process resumed an interrupted training, or None.
    """

    average: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    diverged: dict[str, int] | None = None
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    resumed: dict[str, int] | None = None


class Noise:
    """Standard normal noise for the generator, drawn on the CPU so that it is the same on every device.

    The host does not wait until it is on the device.
    """

    def __init__(self, latent: int, seed: int, device: str):
        self.generator, self.latent, self.device = torch.Generator().manual_seed(seed), latent, device

    def draw(self, count: int) -> Tensor:
        """The next noise vectors, (count, latent), on the device."""
        return to_device(torch.randn(count, self.latent, generator=self.generator), self.device)


def real_batches(images: Images, batch_size: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Yields shuffled batches of real images, (batch_size, C, H, W) in -1..1, epoch after epoch without end.

    first: the number of batches to skip, for resuming.
    """
    half = torch.full_like(images.mean, 0.5)
    signed = replace(images, mean=half, std=half)
    batches = Batches(signed, batch_size, 0, False, len(images) >= batch_size, seed)
    epoch, step = divmod(first, batches.steps)
    for number in itertools.count(epoch):
        for x, _ in batches.epoch(number, step if number == epoch else 0):
            yield x


def adam(groups: Any, recipe: GanRecipe) -> torch.optim.Optimizer:
    """Adam with the learning rate and betas of a recipe. groups: parameters or parameter groups."""
    return torch.optim.Adam(groups, recipe.lr, (recipe.beta1, recipe.beta2), fused=True)


def discriminator_loss(
    discriminator: nn.Module, method: Method, real: Tensor, fake: Tensor, moment: Moment = START
) -> Tensor:
    """The hinge loss of the discriminator plus the method's penalty, 0-d.

    real, fake: images (N, C, H, W) in -1..1. They pass through the network as separate batches, as in the authors' code
    (pfnet-research/sngan_projection at revision ab97f6bc). Batch norm over both together would compute something else.
    moment: the time of the step, for the penalty.
    """
    hinge = functional.relu(1 - discriminator(real)).mean() + functional.relu(1 + discriminator(fake)).mean()
    penalty = method.penalty(discriminator, moment)
    return hinge if penalty is None else hinge + penalty


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float, step: int) -> None:
    """Updates the moving average of the generator's weights and running statistics, in place.

    The decay is min(decay, step / (step + 10)), with `step` from 0: smaller in the first iterations, so that the
    average forgets the initial weights.
    """
    weight = 1 - min(decay, step / (step + 10))
    pairs = list(zip(average.state_dict().values(), generator.state_dict().values(), strict=True))
    # All in one kernel on a GPU; elsewhere torch takes one after the other.
    averaged, new = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    torch._foreach_lerp_(averaged, new, weight)
    for kept, counted in pairs:
        if not kept.is_floating_point():
            kept.copy_(counted)


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

    Each iteration takes `discriminator_steps` steps of the discriminator, then one step of the generator, which reuses
    the last batch of generated images. If `keeper` has a saved state, training resumes from it, with the same result as
    an uninterrupted run. seed: of the real batches and of the noise. Training stops after a loss that is not finite.
    """
    training = Training(generator, discriminator, method, images, recipe, seed, report, keeper or Nobody())
    training.resume()
    training.run()
    return training.outcome


class Training:
    """Training in progress: both networks, their optimizers, and the position.

    The arguments are those of `fit`. step: the iteration at which training starts or resumes, from 0. losses: the
    losses of discriminator and generator, (2,) per iteration, that have not been read from the device yet. window: the
    pairs of losses that have been read since the last entry of the history.
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
        """The objects that are saved and restored through their `state_dict`."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.outcome.average,
            "generator_optim": self.generator_optim,
            "discriminator_optim": self.discriminator_optim,
        }

    def resume(self) -> None:
        """Restores the keeper's saved state, if there is one."""
        saved = self.keeper.resume()
        if saved is None:
            return
        self.step, self.window = saved["step"], saved["window"]
        self.losses = [pair.to(self.images.pixels.device) for pair in saved["losses"]]
        for name, part in self.stateful.items():
            if isinstance(part, torch.optim.Optimizer):
                restore(part, saved[name])
            else:
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
        # Whether this process ran all iterations since the last reading; only then is their rate known.
        begun = not self.losses
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
        # Losses are computed before the weights are updated, so the last update may still have diverged unnoticed.
        if outcome.diverged is None and not all(v.isfinite().all() for v in outcome.average.state_dict().values()):
            outcome.diverged = {"step": recipe.iterations - 1}

    def train_on(self, real: Iterator[Tensor], step: int) -> Tensor:
        """Runs one iteration; returns the losses of discriminator and generator, (2,), on the device."""
        for index in range(self.recipe.discriminator_steps):
            moment = Moment(0, 1, step, derive(self.seed, "penalty", step, index))
            fake = self.generator(self.noise.draw(self.recipe.batch_size))
            loss = discriminator_loss(self.discriminator, self.method, next(real), fake.detach(), moment)
            self.discriminator_optim.zero_grad(set_to_none=True)
            loss.backward()
            self.discriminator_optim.step()
        generator_loss = -self.discriminator(fake).mean()
        self.generator_optim.zero_grad(set_to_none=True)
        generator_loss.backward(inputs=self.trained)  # No gradients for the discriminator's weights.
        self.generator_optim.step()
        update(self.outcome.average, self.generator, self.recipe.average, step)
        return torch.stack([loss.detach(), generator_loss.detach()])

    def note(self, done: int, values: list[list[float]], last: bool) -> None:
        """Reports losses that have just been read; twenty times per run, also extends the history and saves the state.

        done: iterations so far. values: a pair of losses for each iteration since the last reading. last: whether
        training is finished.
        """
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
