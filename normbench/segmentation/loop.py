"""The training loop of segmentation: that of classifiers, with crops for batches and a loss over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from normbench.data.pixels import IGNORED
from normbench.data.scenes import Scenes
from normbench.methods.base import Method, Moment
from normbench.segmentation.crops import Crops
from normbench.segmentation.loss import batch_loss
from normbench.segmentation.protocol import Protocol
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.training import optimization
from normbench.training.keeper import Keeper, Nobody
from normbench.training.loop import Outcome, Report, Training
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
    return SegmentationTraining(model, method, scenes, recipe, protocol, seed, report, keeper or Nobody()).run()


class SegmentationTraining(Training):
    """`Training` on images and masks. The accuracy of its history is the mean over the steps of that of their pixels.

    The arguments are those of `fit`.
    """

    averages = True

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
        self.segmentation, self.protocol, self.scenes = recipe, protocol, scenes
        # Of both, `Training` takes what they have in common with those of classifiers.
        super().__init__(model, method, cast(Any, scenes), cast(Any, recipe), seed, report, keeper)

    def new_batches(self) -> Any:
        """The crops of the scenes."""
        return Crops(self.scenes, self.segmentation, self.protocol, self.seed)

    def new_optimizer(self) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
        """The optimizer, and the function from the step (from 0) to the factor on its learning rates."""
        return optimizer(self.model, self.method, self.segmentation), lr_factor(self.segmentation, self.steps)

    def compile(self) -> None:
        """Does nothing: networks of segmentation are not compiled."""

    def passes(self, pixels: Tensor, labels: Tensor, moment: Moment, seed: int) -> Iterator[Tensor]:
        """Yields the normalized images, float32 (B, C, H, W), for the one pass over a batch."""
        yield self.scenes.normalized(pixels)

    def loss_of(self, x: Tensor, labels: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """The loss of normalized images, and the fraction of the pixels that count whose class is right, both 0-d."""
        return step_loss(self.forward, self.model, self.method, x, labels, self.segmentation, moment)

    def counted(self, labels: Tensor) -> Tensor:
        """The number of pixels that count, 0-d."""
        return (labels != IGNORED).sum()

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
