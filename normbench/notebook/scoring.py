"""`score`: every score of the evaluation, of any trained classifier."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from normbench.checks.method import described
from normbench.corruptions import corrupt
from normbench.corruptions import registry as corruption_registry
from normbench.corruptions.constants import set_for
from normbench.corruptions.files import versions
from normbench.data.batches import Images, on_device
from normbench.data.bound import Corrupted
from normbench.evaluation.evaluate import ALWAYS
from normbench.evaluation.subject import LEVELS, Subject, scored_images
from normbench.functional import placement
from normbench.notebook.dataset import array, corruption_names
from normbench.notebook.measuring import chosen, measured, names
from normbench.notebook.surroundings import undisturbed
from normbench.suite.schema import CorruptedExamples
from normbench.system import blame
from normbench.system import device as devices
from normbench.system.arrays import as_images, as_labels, by
from normbench.system.errors import UserError, hint
from normbench.system.schema import first_problem
from normbench.training.logits import logits
from normbench.training.recipe import Recipe

ROUNDING = 0.1  # how far a level may be from a whole number where the normalization of floats is undone


def score(
    model: nn.Module,
    images: Any,
    labels: Any,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    scores: Any = None,
    initial: Callable[[], nn.Module] | None = None,
    corruptions: str | Sequence[str] = "all",
    severities: int | Sequence[int] = (1, 2, 3, 4, 5),
    corrupted_examples: int | None = None,
    precision: str = "float32",
    memory_format: str = "contiguous",
    threads: int = 1,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Every score of the evaluation of a trained classifier, as plain numbers, lists and dictionaries.

    The numbers are those that the stage `evaluate` writes into the record of a run with these weights, images and
    settings. A copy of the network is scored in evaluation mode: the network itself, the global generators and torch's
    settings are as before the call, and no file is written.

    model: maps normalized images, float32 (N, C, H, W), to logits (N, classes).
    images: the test images, C = 1 or 3. Either levels from 0 to 255 as integers, an array (N, H, W, C) or (N, H, W) or
        a tensor (N, C, H, W); or floats (N, C, H, W) that are such levels divided by 255, before or after they were
        normalized with `mean` and `std`.
    labels: their classes, whole numbers from 0, (N,).
    mean, std: what the network expects its input to be normalized with, for pixels in 0..1: one number, or one for each
        channel.
    scores: names of scores, or settings by name, `{"attacks": {"examples": 100, "epsilon": 4.0}}`. None for all with
        their defaults: `corruptions` and all that `normbench list` shows (`attacks`, `batch_statistics`,
        `certificates`, `filters`, `smoothness`).
    initial: a function that builds the network as it was before its training, for the `features` of that.
    corruptions, severities: names or references, and some of 1 to 5. corrupted_examples: how many test images are
        scored with corruptions; None for all.
    precision, memory_format, threads: as in a recipe. seed: of all random draws.
    quiet: whether to show no progress on stderr.

    The result has these entries, as far as their scores are measured. Accuracies and other shares are from 0 to 1.

    - `clean_accuracy`: on the images as they are.
    - of `corruptions`: `calibration` (`nll` in nats, `brier` from 0 to 2, `ece` from 0 to 1 over 15 bins);
      `corruption_accuracy`, by corruption a list with one accuracy for each severity; `corruption_calibration`.
    - of `batch_statistics`: `batch_statistics`, accuracies where layers normalize with statistics of the test batches.
    - of `attacks`: `attacks`, accuracies under attacks in the maximum norm, or with `norm: l2` in the 2-norm;
      `epsilon` and `step` are in units of 1/255.
    - of `certificates`: `certificates`, at each radius in the 2-norm of pixels in 0..1 the accuracy under `pgd` and the
      shares that are certified by `lipschitz` constants and by `curvature`; `layer_bounds`, all bounds on each layer.
    - of `filters`: `filters`, the deconvolution filters of a first layer that whitens patches, and excess kurtosis and
      the share near zero of pixels and of the filters' responses; nothing of other networks.
    - of `smoothness`: `smoothness`, Lipschitz constants from pixels in 0..1 to logits in the 2-norm (`bound`, or `why`
      there is none, and `local` at images), norms of the layers, and the accuracy `certified` within radii in units of
      1/255; `features`, the `trained` (and `initial`) feature maps of each block: root mean square, largest value, and
      shares of the spectral energy at frequency zero and at low, middle and high frequencies.
    - `columns`: the numbers for a table, by column of results/robustness.csv; `missing`: why the network has no number.
    - `predictions`: the predicted classes as arrays: `clean` (N,) and, for the corrupted images number `index` (M,),
      `corrupted` (`names`, `severities`, M).

    The docstrings in `normbench/evaluation/` describe each entry and name its source. Raises UserError for arguments
    that are not valid.
    """
    with undisturbed(quiet):
        wanted = _wanted(scores)
        references, levels = corruption_names(corruptions, severities)
        recipe = _numerics(precision, memory_format, threads)
        device = devices.choose()
        devices.prepare(device, recipe.precision)
        devices.use_threads(recipe.threads, device)
        given = _images(images, labels, mean, std, device)
        network = placement.placed(_copied(model), device, recipe.memory_format).eval()
        test = given.made_for(network, recipe.memory_format)
        _check_output(network, test)
        named = corruption_registry.named(references)
        stored = test.pixels[:].permute(0, 2, 3, 1).cpu().numpy()
        subject = Subject(
            model=network,
            # An identity has no blocks, so that nothing is measured of it.
            initial=lambda: placement.placed((initial or nn.Identity)(), device, recipe.memory_format).eval(),
            images=test,
            corrupted=_described(test, references, levels, seed),
            index=scored_images(len(test), seed, _count(corrupted_examples)),
            precision=recipe.precision,
            seed=seed,
            make=lambda name, severity, index: corrupt(stored[index], named[name], severity, seed, index),
        )
        predicted = logits(network, test, test.pixels, recipe.precision).argmax(1)
        found, _ = measured(subject, wanted, "score")
        if initial is None and "features" in found.metrics:
            found.metrics["features"].pop("initial")
        accuracy = float((predicted == test.labels.cpu()).double().mean())
        return {"clean_accuracy": accuracy, **found.metrics, "predictions": found.predictions}


def _wanted(scores: Any) -> list[Any]:
    """The scores to measure: None for those on clean and corrupted images, and the others with their settings."""
    asked = [ALWAYS, *names()] if scores is None else scores
    if isinstance(asked, str) or not isinstance(asked, Iterable):
        return chosen(asked)  # which refuses it
    given = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(asked)
    always = ALWAYS in given
    if given.pop(ALWAYS, None):
        raise UserError(f"scores: {ALWAYS}: has no settings")
    unknown = [name for name in given if name not in names()]
    if unknown:
        raise UserError(f"scores: {unknown[0]!r}: unknown score; {hint(unknown[0], [ALWAYS, *names()])}")
    return [*([None] if always else []), *chosen(given)]


def _numerics(precision: Any, memory_format: Any, threads: Any) -> Recipe:
    try:
        return Recipe(epochs=1, precision=precision, memory_format=memory_format, threads=threads)
    except ValidationError as error:
        raise UserError(first_problem(error)) from None


def _images(images: Any, labels: Any, mean: Any, std: Any, device: str) -> Images:
    """The test images on a device. Raises UserError for what is no such images, labels or normalization."""
    given = array(images)
    if given.dtype.kind == "f":
        given = _of_floats(given, mean, std)
    pixels = np.ascontiguousarray(as_images(given, "images"))
    numbers = as_labels(array(labels), len(pixels), "labels", "images")
    channels = pixels.shape[3]
    normalization = _each(mean, channels, "mean"), _each(std, channels, "std")
    return on_device(torch.from_numpy(pixels), torch.from_numpy(numbers), *normalization, device)


def _of_floats(given: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Floats (N, C, H, W) as levels (N, H, W, C). They may be levels over 255, before or after the normalization.

    Raises UserError if they are neither.
    """
    if given.ndim != 4 or given.shape[1] not in (1, 3):
        raise UserError(f"images are floats {by(given.shape)}; N x C x H x W is needed, C 1 or 3")
    for scale, shift in ((std, mean), (1.0, 0.0)):
        factors = np.array(_each(scale, given.shape[1], "std"), np.float32)[:, None, None]
        terms = np.array(_each(shift, given.shape[1], "mean"), np.float32)[:, None, None]
        levels = LEVELS * (given * factors + terms)
        whole = levels.round()
        if (np.abs(levels - whole) <= ROUNDING).all() and whole.min() >= 0 and whole.max() <= LEVELS:
            return whole.astype(np.uint8).transpose(0, 2, 3, 1)
    raise UserError(
        f"images are floats from {given.min():g} to {given.max():g}, which are not levels over {LEVELS}, whether mean "
        "and std are undone or not; give the images as levels from 0 to 255 in uint8"
    )


def _each(values: Any, channels: int, what: str) -> list[float]:
    """A number for each channel. Raises UserError, which begins with `what`, for anything else."""
    try:
        found = np.broadcast_to(np.float64(array(values)).reshape(-1), channels).tolist()
    except (TypeError, ValueError):
        found = []
    if not found or not np.isfinite(found).all() or (what == "std" and min(found) <= 0):
        kind = "a number above 0" if what == "std" else "a number"
        raise UserError(f"{what} = {values!r}: {kind} is needed, or one for each of {channels} channels")
    return found


def _copied(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UserError(f"model: {described(model)} is no network; a torch.nn.Module is needed")
    try:
        return copy.deepcopy(model)
    except Exception as error:  # Its parts may be anything.
        raise UserError(f"model: cannot be copied: {blame.one_line(error)}") from error


@torch.inference_mode()
def _check_output(network: nn.Module, images: Images) -> None:
    """Raises UserError unless a network makes logits of images, for as many classes as the labels have."""
    x = images.normalized(images.pixels[:1])
    try:
        made = network(x)
    except Exception as error:
        raise UserError(f"model: fails on an image {by(tuple(x.shape))}: {blame.one_line(error)}") from error
    classes = int(images.labels.max()) + 1
    if not isinstance(made, Tensor) or made.dim() != 2 or len(made) != 1 or made.shape[1] < classes:
        needed = f"logits of shape (1, classes) are needed, with {classes} classes or more, as labels have"
        raise UserError(f"model: made {described(made)} of an image {by(tuple(x.shape))}; {needed}")


def _described(images: Images, references: list[str], severities: list[int], seed: int) -> Corrupted:
    """The description of corrupted images that are stored nowhere."""
    height, width = images.pixels.shape[2:]
    return Corrupted(
        path="",
        names=list(corruption_registry.named(references)),
        severities=severities,
        source_fingerprint=hashlib.sha256(images.pixels[:].cpu().numpy().tobytes()).hexdigest(),
        sha256={},
        engine="normbench",
        constants=set_for(height, width),
        seed=seed,
        published=None,
        versions=versions("normbench"),
    )


def _count(corrupted_examples: Any) -> int | None:
    try:
        return CorruptedExamples(corrupted_examples=corrupted_examples).corrupted_examples
    except ValidationError as error:
        raise UserError(first_problem(error)) from None
