"""The training loop of segmentation: that of classifiers, with crops for batches and a loss over pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from normbench.data.scenes import Scenes
from normbench.methods.base import Method, Moment
from normbench.segmentation.crops import Crops
from normbench.segmentation.loss import batch_loss
from normbench.segmentation.protocol import Protocol
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.system.seeds import derive
from normbench.training import optimization
from normbench.training.keeper import Keeper, Nobody
from normbench.training.loop import Outcome, Report, Training, finite
from normbench.training.meter import Meter
from normbench.training.optimization import autocast
from normbench.training.recipe import Recipe

AUX = "aux."  # the beginning of the names of the parameters of an auxiliary head


def fit(
    model: nn.Module,
    method: Method,
    scenes: Scenes,
    recipe: SegmentationRecipe,
    protocol: Protocol,
    seed: int,
    report: Report,
    keeper: Keeper | None = None,
) -> Outcome:
    """Trains `model` in place on its device, as `normbench.training.loop.fit` trains a classifier."""
    training = SegmentationTraining(model, method, scenes, recipe, protocol, seed, report, keeper or Nobody())
    training.resume()
    model.train()
    for epoch in range(training.epoch, recipe.epochs):
        training.run_epoch(epoch)
        if training.outcome.diverged is not None:
            return training.outcome
    if not finite(model):  # The last step may have diverged unnoticed: its loss is that of the weights before it.
        training.outcome.diverged = {"epoch": recipe.epochs - 1, "step": recipe.epochs * training.steps - 1}
    return training.outcome


class SegmentationTraining(Training):
    """`Training` on images and masks. The accuracy of its history is the mean over the steps of that of their pixels.

    The arguments are those of `fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        scenes: Scenes,
        recipe: SegmentationRecipe,
        protocol: Protocol,
        seed: int,
        report: Report,
        keeper: Keeper,
    ):
        # Everything that `Training` has, but for the images with labels that it would make batches of.
        self.model, self.method, self.segmentation = model, method, recipe
        self.recipe = cast(Recipe, recipe)  # of which the loop needs the number of epochs
        self.scenes, self.seed, self.report, self.keeper = scenes, seed, report, keeper
        self.batches: Any = Crops(scenes, recipe, protocol, seed)
        self.steps = self.batches.steps
        self.optimizer = optimizer(model, method, recipe)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_factor(recipe, self.steps))
        self.meter, self.outcome = Meter(self.steps, scenes.mean.device), Outcome()
        self.forward: Callable[[Tensor], Any] = model
        self.losses: list[float] = []
        self.epoch = self.step = 0
        self.earlier, self.began = 0.0, time.perf_counter()

    def train_on(self, epoch: int, step: int, pixels: Tensor, labels: Tensor) -> None:
        """Trains on one batch and advances the learning-rate schedule."""
        recipe, done = self.segmentation, epoch * self.steps + step
        moment = Moment(epoch, recipe.epochs, done, derive(self.seed, "penalty", epoch, step))
        x = self.scenes.normalized(pixels)
        loss, right = step_loss(self.forward, self.model, self.method, x, labels, recipe, moment)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.meter.add(loss.detach(), right)

    def note_epoch(self, epoch: int) -> None:
        """Adds the epoch that has just ended to the history."""
        right = self.meter.host[1, : self.steps].double().tolist()
        mean, accuracy = math.fsum(self.losses) / self.steps, math.fsum(right) / self.steps
        self.outcome.history.append({"epoch": epoch + 1, "lr": self.outcome.lr, "loss": mean, "accuracy": accuracy})


def step_loss(
    forward: Callable[[Tensor], Any],
    model: nn.Module,
    method: Method,
    x: Tensor,
    classes: Tensor,
    recipe: SegmentationRecipe,
    moment: Moment,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch with the method's penalty, and the fraction of its pixels whose class is right, both 0-d.

    x: normalized images (B, C, H, W). classes: int64 (B, H, W). moment: the time of the step, for the penalty.
    """
    with autocast(recipe.precision, x.device.type):
        outputs = forward(x)
    loss, right = batch_loss(outputs, classes, recipe.aux_weight)
    penalty = method.penalty(model, moment)
    return (loss if penalty is None else loss + penalty), right


def optimizer(model: nn.Module, method: Method, recipe: SegmentationRecipe) -> torch.optim.Optimizer:
    """SGD over the method's parameter groups, in which an auxiliary head has a learning rate of its own."""
    found = optimization.optimizer(model, method, cast(Recipe, recipe))
    aux = {id(parameter) for name, parameter in model.named_parameters() if name.startswith(AUX)}
    for group in list(found.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in aux]
        if own:
            others = [parameter for parameter in group["params"] if id(parameter) not in aux]
            group["params"] = others
            found.add_param_group(group | {"params": own, "lr": group["lr"] * recipe.aux_lr})
    return found


def lr_factor(recipe: SegmentationRecipe, steps_per_epoch: int) -> Callable[[int], float]:
    """A function from the step (from 0) to the factor on the learning rate."""
    total = recipe.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if recipe.schedule == "constant":
            return 1.0
        return (1 - min(step, total) / total) ** recipe.power

    return factor
