"""The deconvolution filters of a network's first layer, and what they do to the sparsity of the pixels they filter.

Network Deconvolution (Ye et al., arXiv 1905.11926) whitens the patches of a layer's input by an inverse square root of
their covariance. Its rows are filters. Of natural images, and where the inverse square root is nearly converged, they
have a positive centre and a negative surround, and what they respond is sparser than the pixels. After the five
Newton-Schulz steps that are the default of the method they are nearly single points.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import Scores, Subject
from normbench.functional.inverse_sqrt import inverse_sqrt
from normbench.functional.patch_moments import Sampling, covariance
from normbench.system.quantities import Accuracy, Finite
from normbench.system.schema import Positive, PositiveReal, Strict
from normbench.system.seeds import derive

VERSION = 1  # of the entry of the metrics
NEAR_ZERO = 0.1  # standard deviations from the mean, below which a response is near zero
LEAST_VARIANCE = 1e-8  # of pixels or responses, below which they have no kurtosis
MOST_PATCHES = 50_000
BATCH = 16  # images of which all patches are in memory at a time

Steps = Annotated[int, Field(ge=1, le=100)]


class Filters(ScoreSettings):
    """The filters of a first layer that whitens patches; nothing is measured of other networks. It takes a moment.

    examples: the number of test images. iterations: the numbers of Newton-Schulz steps after which the filters are
    measured, besides the layer's own: by default those of most layers, and those of the stems that converge.
    """

    examples: Positive = 400
    iterations: list[Steps] = [5, 15]


class Sparsity(Strict):
    """See `sparsity`. None where there is next to no variance."""

    kurtosis: Finite | None
    near_zero: Accuracy | None


class AfterSteps(Strict):
    """The filters after a number of Newton-Schulz steps: see `shape_of`, and `filters_of` for the weights."""

    iterations: Positive
    centre: PositiveReal
    ring: Finite
    others: Finite | None
    sum: Finite
    responses: Sparsity
    weights: list[list[list[list[Finite]]]]


class Found(Strict):
    """The entry `filters` of the metrics: see `filters`."""

    version: Literal[1]
    examples: Positive
    patches: Positive
    own_iterations: Positive
    pixels: Sparsity
    after: list[AfterSteps]


class Results(Strict):
    """What the score stores."""

    filters: Found


@runtime_checkable
class WhitensPatches(Protocol):
    """What a layer offers that whitens patches of its input by an inverse square root of their covariance.

    sampling: which patches the covariance is made of. iterations: the Newton-Schulz steps to the inverse square root.
    eps: added to the diagonal of the covariance.
    """

    sampling: Sampling
    iterations: int
    eps: float


@score("filters", Filters, default=Filters(), results=Results)
def filters(subject: Subject, settings: Filters) -> Scores:
    """Measures the metric `filters` on a random subset of the test images; nothing if no first layer whitens patches.

    They are the filters to which the training converges for images like these: the covariance is that of the patches
    that the layer samples in a training step, zero padding included, but of test images. No weight has a part in it, so
    that the runs of a variant have the same filters.

    Entries: `version` of the entry; `examples` and `patches`, their numbers; `own_iterations`, those of the layer;
    `pixels`, the sparsity of the middle pixels of the patches; `after`, for each number of iterations, in rising order,
    the `weights` of the filters (see `filters_of`), what `shape_of` says of them, and the sparsity of their `responses`
    to the patches without their mean. See `sparsity`.
    """
    images = subject.images
    chosen = subject.drawn("filters", settings.examples).to(images.pixels.device)
    layer = first_whitening(subject.model, images.normalized(images.pixels[chosen[:1]]))
    if layer is None:
        return Scores()
    patches = patches_of(layer, images, chosen, derive(subject.seed, "filter_patches"))
    rows = patches.flatten(1)
    rows -= rows.mean(0)
    matrix = covariance(rows[None], layer.eps)
    middle = middles(patches.shape[1:])
    after = []
    for iterations in sorted({layer.iterations, *settings.iterations}):
        root = inverse_sqrt(matrix, iterations)[0]
        found = filters_of(root, patches.shape[1:])
        after.append(
            {"iterations": iterations}
            | shape_of(found)
            | {"responses": sparsity(rows @ root[:, middle]), "weights": found.tolist()}
        )
    about = {"version": VERSION, "examples": len(chosen), "patches": len(rows), "own_iterations": layer.iterations}
    return Scores({"filters": about | {"pixels": sparsity(rows[:, middle]), "after": after}})


def first_whitening(model: nn.Module, x: Tensor) -> WhitensPatches | None:
    """The layer of a network in evaluation mode that whitens patches of its images; None if there is none.

    A layer counts if it whitens all entries of a patch together, of a patch that is larger than a pixel: without
    neighbours there is no surround. x: a normalized image (1, C, H, W).
    """
    met: list[WhitensPatches] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, WhitensPatches) and inputs[0].shape == x.shape and torch.equal(inputs[0], x):
            met.append(layer)

    handles = [layer.register_forward_pre_hook(note) for layer in model.modules() if whitens(layer, x.shape[1])]
    try:
        if handles:
            with torch.no_grad():
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    return met[0] if met else None


def whitens(layer: nn.Module, channels: int) -> bool:
    """Whether a layer whitens whole patches, larger than a pixel, of images with so many channels."""
    if not isinstance(layer, WhitensPatches) or not isinstance(layer.sampling, Sampling):
        return False
    sampling = layer.sampling
    return sampling.positions > 1 and sampling.features == channels * sampling.positions


def patches_of(layer: WhitensPatches, images: Images, chosen: Tensor, seed: int) -> Tensor:
    """The patches of images that a layer samples in training, float64 (M, C, kh, kw), on the CPU.

    Of each image the same number is drawn, if all would be more than `MOST_PATCHES`. chosen: indices of the images,
    int64, on the device. seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    most, found = max(1, MOST_PATCHES // len(chosen)), []
    for part in chosen.split(BATCH):
        x = images.normalized(images.pixels[part]).cpu().double()
        patches = layer.sampling.sampled(x).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        if patches.shape[1] > most:
            places = torch.rand(patches.shape[:2], generator=generator).argsort(1)[:, :most]
            patches = patches[torch.arange(len(patches))[:, None], places]
        found.append(patches.flatten(0, 1))
    return torch.cat(found)


def middles(shape: torch.Size) -> Tensor:
    """The places of the middle pixel of each channel among the entries of a patch: int64 (C,).

    shape: (C, kh, kw) of the patch. The middle of an even number of pixels is the later one of two.
    """
    channels, height, width = shape
    return torch.arange(channels) * height * width + height // 2 * width + width // 2


def filters_of(root: Tensor, shape: torch.Size) -> Tensor:
    """The filters whose responses are the whitened middle pixels of a patch, (C, C, kh, kw): one for each channel.

    root: the inverse square root of the covariance (F, F), a symmetric matrix, of which they are rows. The other rows
    are such filters of pixels beside the middle. shape: (C, kh, kw) of the patches.
    """
    return root[middles(shape)].view(-1, *shape)


def shape_of(found: Tensor) -> dict[str, float | None]:
    """Numbers of filters (C, C, kh, kw), each the mean over the filters of all channels.

    - `centre`: the weight of the middle pixel in the filter's own channel, which is positive. The other numbers are
      relative to it.
    - `ring`: the mean weight of the two to four pixels beside the middle one in a row or a column, in this channel.
    - `others`: the mean weight of the middle pixel in the other channels; None with one channel.
    - `sum`: the sum of all weights in this channel.
    """
    channels, height, width = found.shape[1:]
    row, column = height // 2, width // 2
    beside = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    beside = [(y, x) for y, x in beside if 0 <= y < height and 0 <= x < width]
    own = found.diagonal().permute(2, 0, 1)
    middle = found[:, :, row, column]
    centre = middle.diagonal()
    ring = torch.stack([own[:, y, x] for y, x in beside]).mean(0)
    others = (middle.sum(1) - centre) / (channels - 1) / centre if channels > 1 else None
    return {
        "centre": float(centre.mean()),
        "ring": float((ring / centre).mean()),
        "others": None if others is None else float(others.mean()),
        "sum": float((own.sum((1, 2)) / centre).mean()),
    }


def sparsity(values: Tensor) -> dict[str, float | None]:
    """How sparse the columns of values (M, C) are, as means over the columns.

    Each column is divided by its standard deviation, after its mean is subtracted. `kurtosis` is the excess of the mean
    fourth power over 3, that of a normal distribution. `near_zero` is the share of values below `NEAR_ZERO`, which for
    a normal distribution is 0.080. Both grow with sparsity, and neither depends on the scale. None if a column has next
    to no variance.
    """
    centred = values - values.mean(0)
    variance = centred.square().mean(0)
    units = centred / variance.sqrt()
    if not bool((variance > LEAST_VARIANCE).all()):
        return {"kurtosis": None, "near_zero": None}
    kurtosis = float(units.pow(4).mean() - 3)
    near_zero = float((units.abs() < NEAR_ZERO).double().mean())
    return {"kurtosis": kurtosis if math.isfinite(kurtosis) else None, "near_zero": near_zero}
