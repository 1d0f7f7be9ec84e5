"""The training loop of a classifier."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.batches import Batches, Images
from normbench.methods.base import Method, Moment
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training.adversary import inputs
from normbench.training.compilation import compiled
from normbench.training.division import division
from normbench.training.keeper import Keeper, Nobody
from normbench.training.meter import Meter
from normbench.training.optimization import autocast, lr_factor, optimizer, restore, step_loss
from normbench.training.recipe import Recipe, augmentation

REPORTS_AN_EPOCH = 10  # how often losses are read from the device, to show progress and to detect divergence

# Called with the epoch (from 0), the steps done and the steps in an epoch, and the mean loss since the last report.
Report = Callable[[int, int, int, float], None]


@dataclass
class Outcome:
    """What was measured during training.

    history: one entry per epoch: `epoch` (from 1), `lr`, mean `loss` and training `accuracy`.
    diverged: `epoch` and `step` (both from 0, steps counted over the whole training) of the first loss that was not
        finite, or of the last step if that leaves weights that are not finite, or None.
    epoch_seconds: wall time of each epoch that a single process ran in full.
    lr: the learning rate at the start of the last epoch.
    seconds: total training time, including that of earlier, interrupted processes, without time spent saving state.
    compile_seconds: time spent in `torch.compile`, which the other times exclude.
    resumed: `epoch` and `step` within it (both from 0) at which this process resumed an interrupted training, or None.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    diverged: dict[str, int] | None = None
    epoch_seconds: list[float] = field(default_factory=list)
    lr: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    resumed: dict[str, int] | None = None


def fit(
    model: nn.Module,
    method: Method,
    images: Images,
    recipe: Recipe,
    seed: int,
    report: Report,
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains `model` in place on its device.

    If `keeper` has a saved state, training resumes from it, with the same result as an uninterrupted run. seed: of the
    batches and of the adversary. `report` is called about ten times per epoch. Training stops within two tenths of an
    epoch after a loss that is not finite; whether the weights are finite is seen after the last step. Within an epoch
    the host does not wait for the GPU, except to save state.
    """
    return Training(model, method, images, recipe, seed, report, keeper or Nobody()).run()


def finite(model: nn.Module) -> bool:
    """Whether the parameters and the running statistics of a network are finite."""
    running = [value for name, value in model.named_buffers() if name.rpartition(".")[2].startswith("running_")]
    return all(bool(value.isfinite().all()) for value in (*model.parameters(), *running))


class Training:
    """Training in progress: the network, its optimizer and schedule, the losses of the current epoch, the position.

    The arguments are those of `fit`. epoch, step: the position at which training starts or resumes, both from 0.
    averages: whether what `loss_of` returns beside the loss is a mean, and not a number of predictions.
    """

    averages = False

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        images: Images,
        recipe: Recipe,
        seed: int,
        report: Report,
        keeper: Keeper,
    ):
        self.model, self.method, self.images, self.recipe = model, method, images, recipe
        self.division = division(recipe.replicas)
        self.seed, self.report = seed, report
        self.keeper = keeper if self.division is None else self.division.keeper(keeper)
        self.batches = self.new_batches()
        self.steps = self.batches.steps
        self.optimizer, factor = self.new_optimizer()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.meter, self.outcome = Meter(self.steps, images.mean.device), Outcome()
        self.forward: Callable[[Tensor], Tensor] = model
        self.losses: list[float] = []  # the losses of the epoch that have been read from the device so far
        self.epoch = self.step = 0
        self.earlier, self.began = 0.0, time.perf_counter()

    def new_batches(self) -> Batches:
        """The batches of the images and the recipe."""
        recipe = self.recipe
        return self.images.batches(recipe.batch_size, recipe.drop_last, self.seed, augmentation(recipe))

    def new_optimizer(self) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """The optimizer, and the function from the step (from 0) to the factor on its learning rate."""
        return optimizer(self.model, self.method, self.recipe), lr_factor(self.recipe, self.steps)

    def run(self) -> Outcome:
        """Trains from the keeper's saved state, or from the beginning, to the end."""
        self.resume()
        self.compile()
        self.model.train()
        for epoch in range(self.epoch, self.recipe.epochs):
            self.run_epoch(epoch)
            if self.outcome.diverged is not None:
                return self.outcome
        if not finite(self.model):  # The last step may have diverged unnoticed: its loss is that of earlier weights.
            self.outcome.diverged = {"epoch": self.recipe.epochs - 1, "step": self.recipe.epochs * self.steps - 1}
        return self.outcome

    def resume(self) -> None:
        """Restores the keeper's saved state, if there is one."""
        saved = self.keeper.resume()
        if saved is None:
            return
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.model.load_state_dict(saved["model"])
        restore(self.optimizer, saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.meter.load(saved["losses"])
        self.outcome = Outcome(**saved["outcome"], resumed={"epoch": self.epoch, "step": self.step})
        self.earlier, self.began = self.outcome.seconds, time.perf_counter()

    def compile(self) -> None:
        """Compiles the forward pass if the recipe asks for it. Attacks always use the uncompiled model."""
        recipe = self.recipe
        if recipe.compile is None:
            return
        if self.division is not None:
            raise UserError(f"recipe.compile = {recipe.compile!r}: a run of several processes cannot be compiled")
        context = functools.partial(autocast, recipe.precision, self.images.pixels.device.type)
        # The free adversary needs gradients with respect to the images.
        by_gradient = recipe.adversary is not None and recipe.adversary.kind == "free"
        self.forward, seconds = compiled(self.model, recipe.compile, self.batches, context, by_gradient)
        self.outcome.compile_seconds += seconds
        self.began = time.perf_counter()

    def run_epoch(self, epoch: int) -> None:
        """Trains from the current step to the end of the epoch, or until a loss is not finite."""
        start, spent, whole = time.perf_counter(), self.keeper.spent, self.step == 0
        if whole:
            self.meter.reset()
            self.outcome.lr = float(self.schedule.get_last_lr()[0])
        rows = (0, 1) if self.division is None else self.division.rows
        for step, (pixels, labels) in enumerate(self.batches.pixels(epoch, self.step, rows), self.step):
            self.train_on(epoch, step, pixels, labels)
            last = step + 1 == self.steps
            if self.read_losses(epoch, step, last):
                self.count_time()
                return
            if not last and self.keeper.due():
                self.save(epoch, step + 1)
        if whole:
            self.outcome.epoch_seconds.append(time.perf_counter() - start - (self.keeper.spent - spent))
        self.note_epoch(epoch)
        self.step = 0
        self.save(epoch + 1, 0)

    def train_on(self, epoch: int, step: int, pixels: Tensor, labels: Tensor) -> None:
        """Trains on one batch, in several passes with a free adversary, and advances the learning-rate schedule."""
        recipe, done = self.recipe, epoch * self.steps + step
        moment = Moment(epoch, recipe.epochs, done, derive(self.seed, "penalty", epoch, step))
        seed = derive(self.seed, "adversary", epoch, step)
        if self.division is None:
            losses = self.backward(pixels, labels, moment, seed)
        else:
            size = min(recipe.batch_size, len(self.images) - step * recipe.batch_size)
            losses = self.division.backward(self, pixels, labels, moment, seed, size)
        found = [self.stepped(*each) for each in losses]
        self.schedule.step()
        self.meter.add(*found[-1])

    def counted(self, labels: Tensor) -> Tensor | int:
        """The number of the labels that the loss is the mean over, for the parts of a batch that is divided."""
        return len(labels)

    def stepped(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Takes a step along the gradients that the parameters have; returns the loss and what else is given."""
        if self.recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        return loss.detach(), right

    def backward(self, pixels: Tensor, labels: Tensor, moment: Moment, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the loss of a batch and the number of correct predictions, both 0-d, for each pass over it.

        The parameters have their gradients then. seed: of an adversary.
        """
        for x in self.passes(pixels, labels, moment, seed):
            loss, right = self.loss_of(x, labels, moment)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            yield loss, right

    def passes(self, pixels: Tensor, labels: Tensor, moment: Moment, seed: int) -> Iterator[Tensor]:
        """Yields the normalized images, float32 (B, C, H, W), of each pass over one batch."""
        return inputs(self.model, self.images, pixels, labels, self.recipe.adversary, seed)

    def loss_of(self, x: Tensor, labels: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """The loss of normalized images, and the number of correct predictions, both 0-d."""
        return step_loss(self.forward, self.model, self.method, x, labels, self.recipe, moment)

    def read_losses(self, epoch: int, step: int, last: bool) -> bool:
        """Reads and reports the losses at about ten steps of each epoch; returns whether one of them is not finite."""
        every = max(1, self.steps // REPORTS_AN_EPOCH)
        if (step + 1) % every and not last:
            return False
        losses = self.losses = self.meter.read(wait=last)
        bad = next((i for i, value in enumerate(losses) if not math.isfinite(value)), None)
        if self.division is not None:  # A GPU may have delivered less to another process so far.
            bad = self.division.same(bad)
        if bad is not None:
            self.outcome.diverged = {"epoch": epoch, "step": epoch * self.steps + bad}
            return True
        if losses:
            self.report(epoch, step + 1, self.steps, sum(losses[-every:]) / len(losses[-every:]))
        return False

    def note_epoch(self, epoch: int) -> None:
        """Adds the epoch that has just ended to the history."""
        seen = min(self.steps * self.recipe.batch_size, len(self.images))
        mean, accuracy = math.fsum(self.losses) / self.steps, self.meter.right() / seen
        self.outcome.history.append({"epoch": epoch + 1, "lr": self.outcome.lr, "loss": mean, "accuracy": accuracy})

    def count_time(self) -> None:
        """Brings `outcome.seconds` up to date."""
        self.outcome.seconds = self.earlier + time.perf_counter() - self.began - self.keeper.spent

    def save(self, epoch: int, step: int) -> None:
        """Saves everything needed to resume just before this step of this epoch."""
        self.count_time()
        outcome = {name: value for name, value in vars(self.outcome).items() if name not in ("diverged", "resumed")}
        state: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "losses": self.meter.state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "outcome": outcome,
        }
        self.keeper.save(state)
