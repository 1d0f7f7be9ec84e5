"""The smoothness of a trained network: Lipschitz constants, certified accuracy, and spectra of its feature maps."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.evaluation.lipschitz import bounds
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import LEVELS, Scores, Subject
from normbench.functional.graph import is_of_the_model
from normbench.spectral import margin_radius
from normbench.system.quantities import Accuracy, Finite
from normbench.system.schema import MOST, NotNegativeReal, Positive, PositiveReal, Strict


class Smoothness(ScoreSettings):
    """Lipschitz constants, certified accuracy and feature maps by depth. Large layers take seconds each.

    examples: the number of test images for everything that is measured on images. radii: the radii of certified
    accuracy, 2-norms in units of 1/255.
    """

    examples: Annotated[int, Field(ge=2, le=MOST)] = 100
    radii: list[PositiveReal] = [8.0, 36.0]


class Layer(Strict):
    """A layer and the norm of it: see `normbench.evaluation.lipschitz.bounds`."""

    name: str
    bound: Finite
    estimate: Finite | None
    spectrum: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None


class Local(Strict):
    """Lower estimates at images: see `constants`."""

    mean: NotNegativeReal
    max: NotNegativeReal
    examples: Positive


class Constants(Strict):
    """The entry `smoothness` of the metrics: see `constants`, and `normbench.evaluation.lipschitz.bounds`."""

    layers: list[Layer]
    product: Finite | None
    bound: Finite | None
    why: str | None = None
    local: Local
    certified: dict[str, Accuracy] = {}


class Block(Strict):
    """The feature maps of a block: see `features`."""

    rms: NotNegativeReal | None
    max: NotNegativeReal | None
    mean: Finite | None
    low: Finite | None
    middle: Finite | None
    high: Finite | None


class Depth(Strict):
    """The entry `features` of the metrics: the blocks before and after training."""

    initial: list[Block]
    trained: list[Block]


class Results(Strict):
    """What the score stores."""

    smoothness: Constants
    features: Depth


@score("smoothness", Smoothness, results=Results)
def smoothness(subject: Subject, settings: Smoothness) -> Scores:
    """Measures `smoothness` (see `constants`) and `features` (see `features`) on a random subset of the test images.

    `features` has the entries `initial` and `trained`, for the network before and after training.
    """
    images = subject.images
    chosen = subject.drawn("smoothness", settings.examples).to(images.pixels.device)
    x = images.normalized(images.pixels[chosen])
    found = constants(subject, settings, chosen)
    # The initial weights are drawn from it, and what dropout leaves out.
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        # Before training there are no meaningful running statistics, so the initial network runs in training mode.
        initial = features(subject.initial().train(), x)
    depth = {"initial": initial, "trained": features(subject.model, x)}
    return Scores({"smoothness": found, "features": depth})


def constants(subject: Subject, settings: Smoothness, chosen: Tensor) -> dict[str, Any]:
    """Lipschitz constants of a network from pixels in 0..1 to logits, in addition to the result of `bounds`.

    chosen: indices of test images, int64, on the device.

    - `bound`: an upper bound on the Lipschitz constant of the network, or None.
    - `local`: mean and maximum, over the images, of the 2-norm of the gradient of the margin between the two largest
      logits, divided by sqrt(2). This is a lower estimate of the same Lipschitz constant. None if it is not finite.
    - `certified`: for each radius in units of 1/255, the fraction of the images that are classified correctly and, by
      the bound, keep their class within that radius (Tsuzuku et al., arXiv 1802.04034).
    """
    images = subject.images
    pixels, labels = images.pixels[chosen].float() / LEVELS, images.labels[chosen]
    found = bounds(subject.model, ((pixels - images.mean) / images.std)[:1])
    given = pixels.clone().requires_grad_()
    with torch.enable_grad():
        logits = subject.model((given - images.mean) / images.std).float()
        top = logits.topk(2, dim=1).values
        (gradient,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), given)
    local = gradient.flatten(1).norm(dim=1) / math.sqrt(2)
    del found["differences"]  # for the score `certificates`
    found["local"] = {"mean": number(local.mean()), "max": number(local.max()), "examples": len(labels)}
    found["bound"] = None if found["product"] is None else found["product"] / float(images.std.min())
    if found["bound"] is not None and not math.isfinite(found["bound"]):
        found |= {"bound": None, "why": "the norm of the network is not finite"}
    if found["bound"]:
        radii = margin_radius(logits.detach().double(), labels, found["bound"])
        certified = {f"{radius:g}": float((radii > radius / LEVELS).double().mean()) for radius in settings.radii}
        found["certified"] = certified
    return found


def number(value: Tensor) -> float | None:
    """A 0-d tensor as a number; None if it is not finite, which JSON does not have."""
    return float(value) if value.isfinite() else None


def features(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """Statistics of the output of each block, in order of depth, for normalized images x (N, C, H, W).

    `rms` and `max` are the root mean square and the largest absolute value. `mean`, `low`, `middle` and `high` are the
    fractions of the spectral energy at frequency zero, and at radial frequencies of up to 1/6, of 1/6 to 1/3 and of
    more than 1/3 of a cycle per pixel. Fractions of an output without energy are 0. Values that are not finite become
    None. Blocks are the modules that the model's code defines or, if there are none, the ReLUs. Those whose output is
    no batch of maps (N, C, H, W), such as a classifier, are left out.
    """
    blocks = [m for m in model.modules() if m is not model and is_of_the_model(m, model)]
    blocks = blocks or [m for m in model.modules() if isinstance(m, nn.ReLU)]
    names = ("rms", "max", "mean", "low", "middle", "high")
    found: list[Tensor] = []  # for each block its numbers, on the device

    def note(_: nn.Module, given: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4:
            return
        output = output.detach()
        output = (output.cpu() if output.device.type == "mps" else output).double()  # MPS has no float64
        power = torch.fft.fft2(output).abs().square().sum((0, 1))
        rows, columns = (torch.fft.fftfreq(size, device=output.device) for size in power.shape)
        radius = (rows[:, None].square() + columns.square()).sqrt()
        low, middle = (radius > 0) & (radius <= 1 / 6), (radius > 1 / 6) & (radius <= 1 / 3)
        bands = torch.stack([radius == 0, low, middle, radius > 1 / 3])
        shares = torch.where(bands, power, 0).sum((1, 2)) / power.sum().clamp_min(torch.finfo(torch.float64).tiny)
        found.append(torch.stack([output.square().mean().sqrt(), output.abs().max(), *shares]))

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    rows = torch.stack(found).tolist() if found else []
    return [dict(zip(names, (value if math.isfinite(value) else None for value in row), strict=True)) for row in rows]
