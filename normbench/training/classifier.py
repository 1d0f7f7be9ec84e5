"""Trains and measures one classifier, given its task, method and seed: everything that determines a run's outcome.

Nothing here knows where a run is stored or what its record looks like. The digest of this code is part of every run's
id, so it should change only when a result can change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from normbench.data.batches import Images
from normbench.data.bound import Bound
from normbench.data.prepared import Splits
from normbench.functional import placement
from normbench.methods.base import Method
from normbench.models.base import Model
from normbench.models.build import new_classifier
from normbench.system import device as devices
from normbench.system import memory
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training import loop
from normbench.training.keeper import Keeper
from normbench.training.logits import logits
from normbench.training.optimization import optimizer, step_loss
from normbench.training.recipe import Recipe, augmentation
from normbench.training.task import Task
from normbench.training.training_set import training_set


@dataclass
class Classifier:
    """A classifier ready for training: the network on its device, and images in the memory format that it needs.

    training_set: facts about the training images for the run's record (see `normbench.training.training_set`).
    """

    model: nn.Module
    method: Method
    recipe: Recipe
    train: Images
    test: Images
    training_set: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def network(task: Task, model: Model, method: Method, bound: Bound, seed: int) -> nn.Module:
    """The untrained, initialised network of a run, on the CPU. seed: the run's seed within the task."""
    drawn = derive(task.seed, "init", seed)
    return new_classifier(model, task.model_options, method, bound.channels, bound.classes, drawn)


def prepare(task: Task, model: Model, method: Method, bound: Bound, seed: int, data: Splits) -> Classifier:
    """Builds the network of a run and moves it to the device of `data`; also selects the task's training images.

    Sets up torch, and the number of CPU threads, as the recipe says. Raises UserError if this device does not compute
    in the precision of the recipe.
    """
    recipe = task.recipe
    if recipe.precision == "tf32" and not devices.has_tf32(data.device):
        raise UserError("recipe.precision = 'tf32': only GPUs of NVIDIA's Ampere generation or later compute in TF32")
    devices.prepare(data.device, recipe.precision, recipe.deterministic)
    devices.use_threads(recipe.threads, data.device)
    images, facts = training_set(data.train, task, bound.classes)
    wanted = recipe.memory_format
    placed = placement.placed(network(task, model, method, bound, seed), data.device, wanted)
    train, test = images.made_for(placed, wanted), data.test.made_for(placed, wanted)
    return Classifier(placed, method, recipe, train, test, facts)


def fit(
    classifier: Classifier, task: Task, seed: int, report: loop.Report, keeper: Keeper | None = None
) -> loop.Outcome:
    """Trains a prepared classifier in place (see `normbench.training.loop.fit`)."""
    order = derive(task.seed, "order", seed)
    return loop.fit(classifier.model, classifier.method, classifier.train, classifier.recipe, order, report, keeper)


def measure(classifier: Classifier, outcome: loop.Outcome) -> tuple[dict[str, Any], np.ndarray | None]:
    """The metrics of a trained classifier, and the predicted class of each test image, int32 (N,).

    Metrics: `history` (see `normbench.training.loop.Outcome`), `training_set` and `clean_accuracy`, the fraction of
    test images classified correctly. If training diverged there is no `clean_accuracy`, and predictions are None.
    """
    metrics: dict[str, Any] = {"history": outcome.history, "training_set": classifier.training_set}
    if outcome.diverged is not None:
        return metrics, None
    test = classifier.test
    predicted = logits(classifier.model, test, test.pixels, classifier.recipe.precision).argmax(1).numpy()
    metrics["clean_accuracy"] = float((predicted == test.labels.cpu().numpy()).mean())
    return metrics, predicted.astype(np.int32)


def step_memory(classifier: Classifier) -> int:
    """Peak memory of one training step, in bytes. The step changes the weights: call this after everything else."""
    model, method, recipe, images = classifier.model, classifier.method, classifier.recipe, classifier.train
    model.train()
    optim = optimizer(model, method, recipe)
    batches = images.batches(recipe.batch_size, recipe.drop_last, 0, augmentation(recipe))
    x, y = next(batches.epoch(0))

    def step() -> None:
        loss, _ = step_loss(model, model, method, x, y, recipe)
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    return memory.step_memory(model, step, images.pixels.device.type)
