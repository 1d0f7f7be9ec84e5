"""The networks of a task as the subjects of `examine`: a classifier, or the discriminator and generator of a GAN."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from normbench.checks.method import described
from normbench.checks.network import COUNT, examine, listed
from normbench.checks.watch import Subject
from normbench.data.batches import on_device
from normbench.data.bound import Bound
from normbench.functional import placement
from normbench.gan import loop, trainer
from normbench.gan.losses import Labelled, scores
from normbench.gan.samples import Noise, generated
from normbench.gan.task import GanTask
from normbench.methods.base import START, Method
from normbench.models.base import Model
from normbench.models.build import ApplyTo, applied
from normbench.segmentation import loop as segmentation_loop
from normbench.segmentation import trainer as segmentation
from normbench.segmentation.protocol import crop_size, protocol
from normbench.segmentation.task import SegmentationTask
from normbench.system import blame
from normbench.system.errors import UserError
from normbench.system.schema import MemoryFormat
from normbench.system.size import sides
from normbench.training import classifier
from normbench.training.optimization import autocast, optimizer, step_loss
from normbench.training.task import Task


def check(
    task: Task | SegmentationTask | GanTask,
    model: Model,
    method: Method,
    bound: Bound,
    name: str,
    apply_to: ApplyTo = "discriminator",
) -> list[str]:
    """Checks a method in the networks of a task; returns notes. It runs on the CPU, with the threads of the caller.

    bound: the dataset, whose shape and numbers are used, not its images. name: what messages call the method and the
    task. apply_to: the networks of a GAN to which the method applies. Raises UserError, one line, for what is wrong
    (see `normbench.checks.network.examine`).
    """
    if isinstance(task, GanTask):
        check_twice(task, model, method, bound, name, apply_to)
        notes = examine(_discriminator(task, model, applied(method, apply_to)[1], bound, name))
        return notes + _generator(task, model, method, bound, name, apply_to)
    if isinstance(task, SegmentationTask):
        return examine(segmenter_subject(task, model, method, bound, name))
    return examine(classifier_subject(task, model, method, bound, name))


def check_twice(
    task: GanTask, model: Model, method: Method, bound: Bound, name: str, apply_to: ApplyTo = "discriminator"
) -> None:
    """Raises UserError, one line, if the task has a gradient penalty for which a discriminator has no derivatives.

    The arguments are those of `check`. It takes one step of the discriminator on two images.
    """
    if not task.recipe.penalized:
        return
    in_discriminator = applied(method, apply_to)[1]
    with torch.random.fork_rng([]):
        _, network = trainer.networks(task, _checked(model, name, 2), method, bound, 0, apply_to)
        shape = (2, bound.channels, *sides(bound.image_size))
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        labels = torch.arange(2) % bound.classes if task.conditional else None
        real, fake = Labelled(drawn, labels), Labelled(-drawn, labels)
        loss = loop.discriminator_loss(network, in_discriminator, real, fake, task.recipe)
        try:
            loss.backward()
        except RuntimeError as error:
            why = f"the gradient penalty needs second derivatives, which {type(in_discriminator).__name__} has not"
            where = blame.definition(type(in_discriminator)) or model.name
            raise UserError(f"{where}: {why} ({name}): {blame.one_line(error)}") from None


def last_batch(task: Task | SegmentationTask | GanTask, bound: Bound) -> int:
    """The size of the last batch of an epoch; that of the other batches where it is not known (`bound.train` is 0)."""
    size = task.recipe.batch_size
    if isinstance(task, GanTask):
        dropped, known = bound.train >= size, True
    else:
        dropped = task.recipe.drop_last
        known = isinstance(task, SegmentationTask) or task.train_fraction == 1
    rest = bound.train % size
    return rest if rest and known and not dropped else size


def classifier_subject(task: Task, model: Model, method: Method, bound: Bound, name: str) -> Subject:
    """A method in the classifier of a task, as `examine` takes it. The arguments are those of `check`."""
    recipe, places = task.recipe, _places(model, method)
    checked = _checked(model, name, 1)

    def build(method: Method) -> nn.Module:
        return placement.placed(classifier.network(task, checked, method, bound, 0), "cpu", recipe.memory_format)

    def loss(network: nn.Module, method: Method, x: Tensor) -> Tensor:
        labels = torch.arange(len(x)) % bound.classes
        return step_loss(network, network, method, x, labels, recipe)[0]

    return Subject(
        name=name,
        method=method,
        build=build,
        images=lambda network, count: _images(bound, bound.mean, bound.std, network, count, recipe.memory_format),
        loss=loss,
        optimizer=lambda network, method: optimizer(network, method, recipe),
        output=lambda count: (count, bound.classes),
        context=lambda: autocast(recipe.precision, "cpu"),
        last=min(last_batch(task, bound), COUNT - 1),
        **places,
    )


def segmenter_subject(task: SegmentationTask, model: Model, method: Method, bound: Bound, name: str) -> Subject:
    """A method in the network of a task of segmentation, as `classifier_subject` has it. Crops are what it sees."""
    recipe, chosen = task.recipe, protocol(task.recipe, bound)
    checked, seen = _checked(model, name, 1), bound.model_copy(update={"image_size": crop_size(recipe, bound)})
    height, width = sides(seen.image_size)

    def build(method: Method) -> nn.Module:
        return placement.placed(segmentation.network(task, checked, method, bound, 0), "cpu", recipe.memory_format)

    def loss(network: nn.Module, method: Method, x: Tensor) -> Tensor:
        classes = (torch.arange(len(x) * height * width) % chosen.classes).view(len(x), height, width)
        return segmentation_loop.step_loss(network, network, method, x, classes, recipe, START)[0]

    return Subject(
        name=name,
        method=method,
        build=build,
        images=lambda network, count: _images(seen, bound.mean, bound.std, network, count, recipe.memory_format),
        loss=loss,
        optimizer=lambda network, method: segmentation_loop.optimizer(network, method, recipe),
        output=lambda count: (count, chosen.classes, height, width),
        auxiliary=True,
        context=lambda: autocast(recipe.precision, "cpu"),
        last=min(last_batch(task, bound), COUNT - 1),
        **_places(model, method),
    )


def _discriminator(task: GanTask, model: Model, method: Method, bound: Bound, name: str) -> Subject:
    recipe, half = task.recipe, [0.5] * bound.channels
    checked = _checked(model, name, 2)

    def images(network: nn.Module, count: int) -> Tensor:
        return _images(bound, half, half, network, count)

    def build(method: Method) -> nn.Module:
        return placement.placed(trainer.networks(task, checked, method, bound, 0)[1], "cpu")

    def loss(network: nn.Module, method: Method, x: Tensor) -> Tensor:
        labels = torch.arange(len(x)) % bound.classes if task.conditional else None
        return loop.discriminator_loss(network, method, Labelled(x, labels), Labelled(-x, labels), recipe)

    return Subject(
        name=name,
        method=method,
        build=build,
        images=images,
        loss=loss,
        optimizer=lambda network, method: loop.adam(loop.groups(method, network, recipe), recipe),
        output=lambda count: (count,),
        context=contextlib.nullcontext,
        last=min(last_batch(task, bound), COUNT - 1),
        **_places(model, method),
    )


def _generator(task: GanTask, model: Model, method: Method, bound: Bound, name: str, apply_to: ApplyTo) -> list[str]:
    """Checks the generator of a GAN, whose discriminator is in order."""
    places = _places(model, method)
    where = places["model_place"]

    def located(error: BaseException) -> str:
        return blame.place(error, places["files"]) or where

    with torch.random.fork_rng([]), blame.in_one_line(name, located):
        generator, discriminator = (
            placement.placed(each, "cpu") for each in trainer.networks(task, model, method, bound, 0, apply_to)
        )
        source = Noise(task.recipe.latent, 0, "cpu", task.classes(bound))
        noise, labels = source.draw(COUNT), source.draw_labels(COUNT)
        fake = generated(generator, noise, labels).images
        expected = (COUNT, bound.channels, bound.image_size, bound.image_size)
        if not isinstance(fake, Tensor) or tuple(fake.shape) != expected:
            raise UserError(f"{where}: the generator made {described(fake)}; expected shape {expected} ({name})")
        if not fake.isfinite().all() or fake.abs().max() > 1:
            raise UserError(f"{where}: the generator made values outside of -1..1; end it with a tanh ({name})")
        parameters = dict(generator.named_parameters())
        found = scores(discriminator, Labelled(fake, labels))
        gradients = torch.autograd.grad(found.mean(), list(parameters.values()), allow_unused=True)
        unused = [key for key, gradient in zip(parameters, gradients, strict=True) if gradient is None]
        copy.deepcopy(generator)  # as the training does, for the average of its weights
    return [f"{where}: no gradient reaches {listed(unused)} of the generator: is it used?"] if unused else []


def _checked(model: Model, name: str, count: int) -> Model:
    """The model with a function that refuses to return anything but `count` networks."""

    def function(*arguments: Any, **options: Any) -> Any:
        made = model.function(*arguments, **options)
        networks = made if count > 1 and isinstance(made, tuple) else (made,)
        if len(networks) != count or not all(isinstance(network, nn.Module) for network in networks):
            expected = "a torch.nn.Module" if count == 1 else "a generator and a discriminator, two torch.nn.Modules"
            where = blame.definition(model.function)
            raise UserError(f"{where}: {model.name} returned {described(made)}; expected {expected} ({name})")
        return made

    return dataclasses.replace(model, function=function)


def _places(model: Model, method: Method) -> dict[str, Any]:
    """The fields of a subject that say where method and model are defined."""
    files = [_file(each) for each in (type(method), model.function)]
    method_place = blame.definition(type(method)) or type(method).__name__
    model_place = blame.definition(model.function) or model.name
    own_method, own_model = (file is not None and blame.is_own(file) for file in files)
    return {
        "own_model": own_model,
        "files": tuple(file for file in files if file),
        "method_place": method_place,
        "model_place": model_place,
        "place": model_place if own_model and not own_method else method_place,
    }


def _file(thing: Any) -> str | None:
    """The source file of a class or function; None for what was defined in a session, such as that of a notebook."""
    try:
        return inspect.getsourcefile(thing)
    except (OSError, TypeError):
        return None


def _images(
    bound: Bound,
    mean: list[float],
    std: list[float],
    network: nn.Module,
    count: int,
    wanted: MemoryFormat = "channels_last",
) -> Tensor:
    """Images of noise with the shape of a dataset, normalized, in the memory format of a network."""
    shape = (count, *sides(bound.image_size), bound.channels)
    drawn = torch.randint(256, shape, generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    images = on_device(drawn, torch.zeros(count, dtype=torch.int64), mean, std, "cpu").made_for(network, wanted)
    return images.normalized(images.pixels[:])
