"""Trains and measures one network of segmentation: everything that determines a run's outcome.

Nothing here knows where a run is stored or what its record looks like. The digest of this code is part of every such
run's id, so it should change only when a result can change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from normbench.data.bound import Bound
from normbench.data.scenes import ScenePair, Scenes
from normbench.functional import placement
from normbench.methods.base import START, Method
from normbench.models.base import Model
from normbench.models.build import new_classifier
from normbench.segmentation import loop
from normbench.segmentation.confusion import confusion, scores
from normbench.segmentation.crops import Crops
from normbench.segmentation.predictions import predicted
from normbench.segmentation.protocol import Protocol, protocol
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.segmentation.task import SegmentationTask
from normbench.system import device as devices
from normbench.system import memory
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper
from normbench.training.loop import Outcome, Report


@dataclass
class Segmenter:
    """A network of segmentation ready for training: on its device, with its images and what is scored of it."""

    model: nn.Module
    method: Method
    recipe: SegmentationRecipe
    protocol: Protocol
    train: Scenes
    test: Scenes

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def network(task: SegmentationTask, model: Model, method: Method, bound: Bound, seed: int) -> nn.Module:
    """The untrained, initialised network of a run, on the CPU. seed: the run's seed within the task."""
    classes, drawn = protocol(task.recipe, bound).classes, derive(task.seed, "init", seed)
    return new_classifier(model, task.model_options, method, bound.channels, classes, drawn)


def prepare(
    task: SegmentationTask, model: Model, method: Method, bound: Bound, seed: int, data: ScenePair
) -> Segmenter:
    """Builds the network of a run and moves it to the device of `data`.

    Sets up torch, and the number of CPU threads, as the recipe says. Raises UserError if this device does not compute
    in the precision of the recipe.
    """
    recipe = task.recipe
    if recipe.precision == "tf32" and not devices.has_tf32(data.device):
        raise UserError("recipe.precision = 'tf32': only GPUs of NVIDIA's Ampere generation or later compute in TF32")
    devices.prepare(data.device, recipe.precision, recipe.deterministic)
    devices.use_threads(recipe.threads, data.device)
    wanted = recipe.memory_format
    placed = placement.placed(network(task, model, method, bound, seed), data.device, wanted)
    train, test = data.train.made_for(placed, wanted), data.test.made_for(placed, wanted)
    return Segmenter(placed, method, recipe, protocol(recipe, bound), train, test)


def fit(
    segmenter: Segmenter, task: SegmentationTask, seed: int, report: Report, keeper: Keeper | None = None
) -> Outcome:
    """Trains a prepared network in place (see `normbench.segmentation.loop.fit`)."""
    order = derive(task.seed, "order", seed)
    model, method, recipe = segmenter.model, segmenter.method, segmenter.recipe
    return loop.fit(model, method, segmenter.train, recipe, segmenter.protocol, order, report, keeper)


def measure(segmenter: Segmenter, outcome: Outcome) -> tuple[dict[str, Any], np.ndarray | None]:
    """The metrics of a trained network, and the predicted classes of the test images, uint8 (N, height, width).

    Metrics: `history`, `training_images` and the scores of the test images, `mean_iou`, `pixel_accuracy`, `iou` and
    `confusion` (see `normbench.segmentation.confusion`). If training diverged there are no scores, and predictions are
    None.
    """
    metrics: dict[str, Any] = {"history": outcome.history, "training_images": len(segmenter.train)}
    if outcome.diverged is not None:
        return metrics, None
    test, chosen = segmenter.test, segmenter.protocol
    rows = np.arange(len(test))
    found = np.concatenate(
        list(predicted(segmenter.model, test, test.pixels, rows, chosen, segmenter.recipe.precision))
    )
    return metrics | scored(test, rows, found, chosen), found


def scored(test: Scenes, rows: np.ndarray, found: np.ndarray, chosen: Protocol) -> dict[str, Any]:
    """The scores of the predictions for some test images, uint8 (len(rows), height, width), as `measure` has them."""
    matrix = np.zeros((chosen.classes, chosen.classes), np.int64)
    for row, image in zip(rows, found, strict=True):
        matrix += confusion(chosen.masks(test.masks[row][None])[0], image, chosen.classes)
    values = scores(matrix, chosen)
    return {
        "mean_iou": values.mean_iou,
        "pixel_accuracy": values.pixel_accuracy,
        "iou": values.iou,
        "confusion": matrix.tolist(),
    }


def step_memory(segmenter: Segmenter) -> int:
    """Peak memory of one training step, in bytes. The step changes the weights: call this after everything else."""
    model, method, recipe = segmenter.model, segmenter.method, segmenter.recipe
    model.train()
    optim = loop.optimizer(model, method, recipe)
    pixels, classes = next(Crops(segmenter.train, recipe, segmenter.protocol, 0).pixels(0))
    x = segmenter.train.normalized(pixels)

    def step() -> None:
        loss, _ = loop.step_loss(model, model, method, x, classes, recipe, START)
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    return memory.step_memory(model, step, segmenter.train.device)
