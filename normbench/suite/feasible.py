"""Settings that cannot be trained or scored together, or not with the data, though each of them is valid by itself.

They are found before any training, so that no suite stops in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normbench.data.bound import Bound
from normbench.data.labels import part_of_each_class
from normbench.data.pixels import IGNORED
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask, GanTaskEntry
from normbench.runs.run import Kind
from normbench.runs.tasks import AnyTask, EpochTask
from normbench.runs.variant import Variant
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.segmentation.task import SegmentationTask, SegmentationTaskEntry
from normbench.suite.suite import SECTIONS
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.schema import LARGEST
from normbench.system.size import Size, sides
from normbench.training.recipe import Loss, Recipe
from normbench.training.task import Task, TaskEntry

Keys = tuple[str | int, ...]
Found = Iterator[tuple[Keys, str]]

# Keys of a loss that its kind does not use.
WITHOUT_EFFECT = {"cross_entropy": ("epsilon", "ramp_epochs", "lipschitz", "temperature"), "hinge": ("temperature",)}
MOST_CLASSES = 2**15 - 1  # predicted classes are stored as int16


def of_recipe(recipe: Recipe | SegmentationRecipe | GanRecipe) -> Found:
    """Yields keys and message of each thing in a recipe that no dataset can be trained with."""
    if isinstance(recipe, GanRecipe):
        return
    if recipe.nesterov and not recipe.momentum:
        yield ("nesterov",), "needs a momentum above 0"
    if isinstance(recipe, SegmentationRecipe):
        if recipe.outputs is not None and recipe.protocol == "standard":
            yield ("outputs",), "has no effect with protocol 'standard', which has the classes of the dataset"
        if recipe.schedule != "poly" and recipe.power != SegmentationRecipe.model_fields["power"].default:
            yield ("power",), f"has no effect with schedule '{recipe.schedule}'"
        return
    steps = sum(milestone < recipe.epochs for milestone in recipe.milestones)
    grown = math.log(recipe.lr) + steps * math.log(recipe.gamma)
    if recipe.schedule == "step" and recipe.gamma > 1 and grown > math.log(LARGEST):
        yield ("gamma",), f"after {steps} milestones the learning rate would be above {LARGEST:g}"
    padded = recipe.crop == "padded"
    for key in ("crop_scale", "crop_ratio") if padded else ("crop_padding",):
        if getattr(recipe, key) != Recipe.model_fields[key].default:
            yield (key,), f"has no effect with crop '{recipe.crop}'"
    if recipe.loss is not None:
        yield from of_loss(recipe, recipe.loss)
    if recipe.replicas > 1:
        yield from of_replicas(recipe)


def of_replicas(recipe: Recipe) -> Found:
    """Yields keys and message of each thing in a recipe that cannot be had with several replicas."""
    if recipe.replicas > recipe.batch_size:
        yield ("replicas",), f"more than the {recipe.batch_size} images of a batch"
    if recipe.compile is not None:
        yield ("compile",), "cannot be had with `replicas`"
    if recipe.loss is not None and recipe.loss.curvature is not None:
        yield ("loss", "curvature"), "cannot be had with `replicas`, as its search is of a whole batch"


def of_loss(recipe: Recipe, loss: Loss) -> Found:
    """Yields keys and message of each thing in the loss of a recipe that would have no effect, or contradicts it."""
    for key in WITHOUT_EFFECT.get(loss.kind, ()):
        if getattr(loss, key) != Loss.model_fields[key].default:
            yield ("loss", key), f"has no effect with kind '{loss.kind}'"
    if loss.kind == "hinge" and recipe.label_smoothing:
        yield ("label_smoothing",), "has no effect with loss.kind 'hinge'"
    if loss.curvature is not None and recipe.adversary is not None:
        yield ("adversary",), "goes with no loss.curvature, which has adversarial examples of its own"


def trained_size(task: TaskEntry | SegmentationTaskEntry | GanTaskEntry, size: Size) -> Size:
    """Returns the size of the images that a network is trained on. size: of those of the dataset."""
    return (task.recipe.crop_size or size) if isinstance(task, SegmentationTaskEntry) else size


def of_size(task: TaskEntry | SegmentationTaskEntry | GanTaskEntry, size: Size) -> Found:
    """Yields keys and message of each setting of a task that does not fit images of this size in pixels."""
    side = min(sides(size))
    if isinstance(task, TaskEntry) and task.recipe.crop == "padded" and task.recipe.crop_padding > side:
        yield ("recipe", "crop_padding"), f"more than the {side} pixels of an image, so that crops would miss it"


def of_task(task: AnyTask, bound: Bound, variants: Iterable[Variant], evaluation: dict[str, Any]) -> Found:
    """Yields keys and message of each setting of a task that does not fit its dataset.

    variants: those that are trained on the task. evaluation: the resolved section.
    """
    yield from of_size(task, bound.image_size)
    if (bound.masks is not None) is not isinstance(task, SegmentationTask):
        yield ("dataset",), "has no masks" if bound.masks is None else "has masks, which only segmentation learns"
        return
    if isinstance(task, SegmentationTask):
        yield from of_segmentation(task, bound, variants)
        return
    if isinstance(task, GanTask):
        if bound.classes < 2:
            yield ("dataset",), "has 1 class, but the FID needs the features of a classifier of 2 or more"
        elif bound.train < 2:
            yield ("dataset",), "has 1 training image, but the FID needs 2 or more"
        else:
            for variant in variants:
                if why := cannot_be_built(task, bound, variant):
                    yield ("model",), f"cannot be built with the variant {variant.name}: {why}"
        return
    if bound.classes < 2:
        yield ("dataset",), "has 1 class, but a classifier needs 2 or more"
        return
    if bound.classes > MOST_CLASSES:
        yield ("dataset",), f"has {bound.classes} classes, but at most {MOST_CLASSES} can be stored"
    if task.label_noise is not None and task.label_noise.kind == "asymmetric" and bound.classes != 10:
        message = f"is for the 10 classes of CIFAR-10, {task.dataset} has {bound.classes}; try 'cyclic'"
        yield ("label_noise", "kind"), message
    if evaluation.get("smoothness") is not None and bound.test < 2:
        yield ("dataset",), "has 1 test image, but the score smoothness needs 2 or more: evaluation.smoothness: null"
    yield from of_batches(task, bound, variants)
    if task.recipe.loss is not None:
        for variant in variants:
            if why := cannot_have_loss(task, task.recipe.loss, bound, variant):
                yield ("recipe", "loss"), f"with the variant {variant.name}: {why}"


def of_segmentation(task: SegmentationTask, bound: Bound, variants: Iterable[Variant]) -> Found:
    """Yields keys and message of each setting of a task of segmentation that does not fit its dataset."""
    recipe = task.recipe
    if recipe.outputs is not None and not bound.classes < recipe.outputs <= IGNORED:
        message = f"must be {bound.classes + 1} or more, at most {IGNORED}: the classes of {task.dataset}, and void"
        yield ("recipe", "outputs"), message
        return
    if recipe.drop_last and bound.train < recipe.batch_size:
        message = f"there are fewer training images ({bound.train}), so that drop_last would leave none"
        yield ("recipe", "batch_size"), message
    elif recipe.batch_size == 1 or (bound.train % recipe.batch_size == 1 and not recipe.drop_last):
        for variant in variants:
            if why := cannot_train_on_one(task, bound, variant):
                message = (
                    f"a batch would be one of {bound.train} training images by itself, on which {variant.name} cannot "
                    f"train ({why}): set drop_last or another batch size"
                )
                yield ("recipe", "batch_size"), message
                return


def of_batches(task: Task, bound: Bound, variants: Iterable[Variant]) -> Found:
    """Yields keys and message if an epoch of a task has no batch, or one image in a batch that needs more."""
    recipe = task.recipe
    labels = np.load(Path(bound.path) / "train_labels.npy")
    images = len(part_of_each_class(labels, task.train_fraction, 0))
    if recipe.drop_last and images < recipe.batch_size:
        message = f"there are fewer training images ({images}), so that drop_last would leave none"
        yield ("recipe", "batch_size"), message
    elif 0 < images % recipe.batch_size < recipe.replicas and not recipe.drop_last:
        message = f"the last of {images} training images are fewer than that: set drop_last or another batch size"
        yield ("recipe", "replicas"), message
    elif images % recipe.batch_size == 1 and not (recipe.drop_last and images > 1):
        for variant in variants:
            if why := cannot_train_on_one(task, bound, variant):
                message = (
                    f"the last of {images} training images is a batch by itself, on which {variant.name} cannot train "
                    f"({why}): set drop_last or another batch size"
                )
                yield ("recipe", "batch_size"), message
                return


def cannot_train_on_one(task: EpochTask, bound: Bound, variant: Variant) -> str | None:
    """Returns why a network cannot train on a batch of one image, though it can on one of two; None if it can."""
    import torch

    from normbench.methods import registry as methods
    from normbench.models import registry as models
    from normbench.models.build import new_classifier

    with torch.random.fork_rng([]):
        method = methods.build(variant.method, variant.options)
        network = new_classifier(models.get(task.model), task.model_options, method, bound.channels, bound.classes, 0)
        network.train()
        size = trained_size(task, bound.image_size)
        for count in (2, 1):
            try:
                with torch.no_grad():
                    network(torch.randn(count, bound.channels, *sides(size)))
            except (RuntimeError, ValueError) as error:
                return None if count == 2 else str(error).split("\n")[0]
    return None


def cannot_have_loss(task: Task, loss: Loss, bound: Bound, variant: Variant) -> str | None:
    """Returns why a loss needs norms or curvatures that are not known of a network; None if it does not."""
    import torch

    from normbench.methods import registry as methods
    from normbench.models import registry as models
    from normbench.models.build import new_classifier
    from normbench.training.certified import links_for, needs_links

    if not needs_links(loss):
        return None
    with torch.random.fork_rng([]):
        method = methods.build(variant.method, variant.options)
        network = new_classifier(models.get(task.model), task.model_options, method, bound.channels, bound.classes, 0)
        try:
            links_for(loss, network, torch.zeros(1, bound.channels, *sides(bound.image_size)))
        except UserError as error:
            return str(error)
    return None


def cannot_be_built(task: GanTask, bound: Bound, variant: Variant) -> str | None:
    """Returns why a method does not take a layer of a GAN on these images; None if it takes them all."""
    import torch

    from normbench.gan import trainer
    from normbench.methods import registry as methods
    from normbench.models import registry as models

    with torch.random.fork_rng([]):
        method = methods.build(variant.method, variant.options)
        try:
            trainer.networks(task, models.get(task.model), method, bound, 0, variant.apply_to)
        except ValueError as error:
            return str(error).split("\n")[0]
    return None


def problems(
    kind: Kind, task: AnyTask, bound: Bound, variants: Iterable[Variant], evaluation: dict[str, Any]
) -> list[str]:
    """Returns lines for what `of_task` finds, `params.yaml: tasks.mine.recipe.batch_size = 8: message`."""
    lines = []
    for keys, message in of_task(task, bound, variants, evaluation):
        value: Any = task.json_value()
        for key in keys:
            value = value[key]
        lines.append(
            f"{layout.PARAMS}: {'.'.join(map(str, (SECTIONS[kind], task.name, *keys)))} = {value!r}: {message}"
        )
    return lines
