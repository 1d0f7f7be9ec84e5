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

from normbench.data.augmentation import Augmentation
from normbench.data.batches import Images
from normbench.gan.diversity import Diversity
from normbench.gan.losses import LOSSES, Labelled, gradient_penalty, scores
from normbench.gan.norms import spectral_norms
from normbench.gan.recipe import COLLAPSED, GanRecipe
from normbench.gan.samples import Noise, generated, sample
from normbench.methods.base import START, Method, Moment
from normbench.system.seeds import derive
from normbench.system.transfer import to_device
from normbench.training.keeper import Keeper, Nobody
from normbench.training.optimization import autocast, restore

READS = 200  # how often losses are read from the device in a run, to show progress and to detect divergence
POINTS = 20  # entries in the history of a run
SHOWN = 256  # images that are generated for an entry of the history
COMPARED = 64  # of them, those whose diversity is measured
STATISTICS = ("running_", "rest_")  # how the names of buffers begin that are averages over images


# Called with the iterations done, and the mean losses of discriminator and generator since the last history entry.
Report = Callable[[int, float, float], None]


@dataclass
class Outcome:
    """What training produced and measured.

    average: the generator with the moving average of the weights, in evaluation mode.
    history: one entry for each twentieth of the training: `iteration`, mean `discriminator_loss`, `generator_loss`, the
        `diversity` of samples, and the `spectral_norms` of the discriminator by layer.
    shown: samples of the same noise at each entry of the history, uint8 (SHOWN, C, H, W), on the CPU.
    diverged: the iteration (from 0) of the first loss or weight that was not finite, as `step`, or None.
    rates: iterations per second between consecutive readings of the losses.
    seconds: total training time, including that of earlier, interrupted processes, without time spent saving state and
        measuring what the history holds besides losses.
    resumed: the iteration (from 0), as `step`, at which this process resumed an interrupted training, or None.
    """

    average: nn.Module
    history: list[dict[str, Any]] = field(default_factory=list)
    shown: list[Tensor] = field(default_factory=list)
    diverged: dict[str, int] | None = None
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    resumed: dict[str, int] | None = None

    @property
    def collapsed(self) -> dict[str, int] | None:
        """The iteration (from 1), as `step`, from whose entry on samples lacked diversity; None if they have it."""
        found = None
        for entry in reversed(self.history):
            if entry["diversity"] is None or entry["diversity"] >= COLLAPSED:
                break
            found = {"step": entry["iteration"]}
        return found


def real_batches(
    images: Images, batch_size: int, seed: int, first: int = 0, conditional: bool = False
) -> Iterator[Labelled]:
    """Yields shuffled batches of real images in -1..1, epoch after epoch without end.

    first: the number of batches to skip, for resuming. conditional: whether the batches have their labels.
    """
    half = torch.full_like(images.mean, 0.5)
    signed = replace(images, mean=half, std=half)
    batches = signed.batches(batch_size, len(images) >= batch_size, seed, Augmentation())
    epoch, step = divmod(first, batches.steps)
    for number in itertools.count(epoch):
        for x, labels in batches.epoch(number, step if number == epoch else 0):
            yield Labelled(x, labels if conditional else None)


def adam(groups: Any, recipe: GanRecipe) -> torch.optim.Optimizer:
    """Adam with the learning rate and betas of a recipe. groups: parameters or parameter groups."""
    return torch.optim.Adam(groups, recipe.lr, (recipe.beta1, recipe.beta2), fused=True)


def lr_factor(recipe: GanRecipe, step: int) -> float:
    """The factor on the learning rates in an iteration, from 0."""
    return 1 - step / recipe.iterations if recipe.schedule == "linear" else 1.0


def discriminator_loss(
    discriminator: nn.Module,
    method: Method,
    real: Labelled,
    fake: Labelled,
    recipe: GanRecipe,
    moment: Moment = START,
) -> Tensor:
    """The loss of the discriminator plus the gradient penalty of the recipe and the method's penalty, 0-d.

    The two batches pass through the network as separate ones, as in the authors' code (pfnet-research/sngan_projection
    at revision ab97f6bc). Batch norm over both together would compute something else. moment: the time of the step, for
    the penalties.
    """
    device = real.images.device
    with autocast(recipe.precision, device.type):
        found = [scores(discriminator, batch) for batch in (real, fake)]
    loss = LOSSES[recipe.loss].discriminator(*found)
    if recipe.penalized:
        drawn = torch.Generator().manual_seed(derive(moment.seed, "points"))
        shares = to_device(torch.rand(len(real.images), 1, 1, 1, generator=drawn), device)
        loss = loss + recipe.penalized * gradient_penalty(discriminator, real, fake.images, shares)
    penalty = method.penalty(discriminator, moment)
    return loss if penalty is None else loss + penalty


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float, step: int) -> None:
    """Updates the moving average of the generator's weights and running statistics, in place.

    The decay is min(decay, step / (step + 10)), with `step` from 0: smaller in the first iterations, so that the
    average forgets the initial weights. What else a method keeps, such as singular vectors and counters, is copied.
    """
    if step == 0:
        average.load_state_dict(generator.state_dict())  # some layers have state that takes a shape in the first pass
        return
    weight = 1 - min(decay, step / (step + 10))
    parameters = {name for name, _ in generator.named_parameters()}
    means: tuple[list[Tensor], list[Tensor]] = [], []
    for (name, kept), new in zip(average.state_dict().items(), generator.state_dict().values(), strict=True):
        if name in parameters or name.rpartition(".")[2].startswith(STATISTICS):
            means[0].append(kept)
            means[1].append(new)
        elif isinstance(kept, Tensor):
            kept.copy_(new)
    torch._foreach_lerp_(*means, weight)  # all in one kernel on a GPU; elsewhere torch takes one after the other
    for layer, trained in zip(average.modules(), generator.modules(), strict=True):
        if type(layer).get_extra_state is not nn.Module.get_extra_state:
            layer.set_extra_state(trained.get_extra_state())


@dataclass(frozen=True)
class Setting:
    """What shapes the training of a GAN besides its networks and images.

    method: that of the discriminator. in_generator: that of the generator, or None. seed: of the real batches and of
    the noise. shown: the seed of the noise whose samples are looked at during the training. classes: the number of
    classes that the networks are given, or None.
    """

    method: Method
    recipe: GanRecipe
    seed: int
    in_generator: Method | None = None
    shown: int = 0
    classes: int | None = None


def fit(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Images,
    setting: Setting,
    report: Report,
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains both networks in place on their device; `report` is called about 200 times.

    Each iteration takes `discriminator_steps` steps of the discriminator, then one step of the generator, which reuses
    the last batch of generated images. If `keeper` has a saved state, training resumes from it, with the same result as
    an uninterrupted run. Training stops after a loss that is not finite.
    """
    training = Training(generator, discriminator, images, setting, report, keeper or Nobody())
    training.resume()
    training.run()
    return training.outcome


class Training:
    """Training in progress: both networks, their optimizers, and the position.

    The arguments are those of `fit`. step: the iteration at which training starts or resumes, from 0. losses: the
    losses of discriminator and generator, (2,) per iteration, that have not been read from the device yet. window: the
    pairs of losses that have been read since the last entry of the history. rates: the learning rates of all parameter
    groups without the schedule. aside: seconds that this process has spent
    on measuring what the history holds besides losses.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        images: Images,
        setting: Setting,
        report: Report,
        keeper: Keeper,
    ):
        self.generator, self.discriminator, self.images = generator, discriminator, images
        self.setting, self.recipe, self.report, self.keeper = setting, setting.recipe, report, keeper
        self.device = images.pixels.device.type
        self.noise = Noise(self.recipe.latent, derive(setting.seed, "noise"), self.device, setting.classes)
        self.trained = list(generator.parameters())
        of_generator = (
            self.trained if setting.in_generator is None else groups(setting.in_generator, generator, self.recipe)
        )
        self.generator_optim = adam(of_generator, self.recipe)
        self.discriminator_optim = adam(groups(setting.method, discriminator, self.recipe), self.recipe)
        self.rates = [group["lr"] for group in self.param_groups]
        self.diversity = Diversity(images.pixels[:], COMPARED)
        self.outcome = Outcome(copy.deepcopy(generator).eval())
        self.step = 0
        self.losses: list[Tensor] = []
        self.window: list[list[float]] = []
        self.earlier, self.aside, self.began = 0.0, 0.0, time.perf_counter()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both optimizers, which are other ones after they have been restored."""
        return [*self.generator_optim.param_groups, *self.discriminator_optim.param_groups]

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
        conditional = self.setting.classes is not None
        seed = derive(self.setting.seed, "real")
        real = real_batches(self.images, recipe.batch_size, seed, first_batch, conditional)
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
        if outcome.diverged is None and not finite(outcome.average):
            outcome.diverged = {"step": recipe.iterations - 1}

    def train_on(self, real: Iterator[Labelled], step: int) -> Tensor:
        """Runs one iteration; returns the losses of discriminator and generator, (2,), on the device."""
        recipe, setting = self.recipe, self.setting
        for group, rate in zip(self.param_groups, self.rates, strict=True):
            group["lr"] = rate * lr_factor(recipe, step)
        for index in range(recipe.discriminator_steps):
            moment = Moment(0, 1, step, derive(setting.seed, "penalty", step, index))
            # The generator learns from the last batch alone.
            with (
                torch.set_grad_enabled(index + 1 == recipe.discriminator_steps),
                autocast(recipe.precision, self.device),
            ):
                noise, labels = self.noise.draw(recipe.batch_size), self.noise.draw_labels(recipe.batch_size)
                fake = generated(self.generator, noise, labels)
            seen = Labelled(fake.images.detach(), labels)
            loss = discriminator_loss(self.discriminator, setting.method, next(real), seen, recipe, moment)
            self.discriminator_optim.zero_grad(set_to_none=True)
            loss.backward()
            self.discriminator_optim.step()
        with autocast(recipe.precision, self.device):
            found = scores(self.discriminator, fake)
        generator_loss = LOSSES[recipe.loss].generator(found)
        penalty = None if setting.in_generator is None else setting.in_generator.penalty(self.generator, moment)
        generator_loss = generator_loss if penalty is None else generator_loss + penalty
        self.generator_optim.zero_grad(set_to_none=True)
        generator_loss.backward(inputs=self.trained)  # No gradients for the discriminator's weights.
        self.generator_optim.step()
        update(self.outcome.average, self.generator, recipe.average, step)
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
            self.outcome.history.append(entry | self.looked_at())
            self.window = []
            self.save(done)

    def looked_at(self) -> dict[str, Any]:
        """What an entry of the history holds besides losses. Keeps samples, and leaves the networks as they are."""
        began = time.perf_counter()
        images = sample(self.outcome.average, self.recipe.latent, SHOWN, self.setting.shown, self.device)
        self.outcome.shown.append(images.cpu())
        found = {"diversity": self.diversity.of(images), "spectral_norms": spectral_norms(self.discriminator)}
        self.aside += time.perf_counter() - began
        return found

    def count_time(self) -> None:
        """Brings `outcome.seconds` up to date."""
        self.outcome.seconds = self.earlier + time.perf_counter() - self.began - self.keeper.spent - self.aside

    def save(self, step: int) -> None:
        """Saves everything needed to resume just before this iteration."""
        self.count_time()
        outcome = self.outcome
        state: dict[str, Any] = {
            "step": step,
            "window": self.window,
            "noise": self.noise.generator.get_state(),
            "losses": [pair.cpu() for pair in self.losses],
            "outcome": {name: getattr(outcome, name) for name in ("history", "shown", "rates", "seconds")},
        }
        self.keeper.save(state | {name: part.state_dict() for name, part in self.stateful.items()})


def finite(network: nn.Module) -> bool:
    """Whether all parameters and buffers of a network are finite."""
    values = (value for value in network.state_dict().values() if isinstance(value, Tensor))
    return all(value.isfinite().all() for value in values)


def groups(method: Method, network: nn.Module, recipe: GanRecipe) -> list[dict]:
    """The parameter groups of a network to which a method applies, without weight decay."""
    return method.param_groups(network, recipe.lr, 0.0)
