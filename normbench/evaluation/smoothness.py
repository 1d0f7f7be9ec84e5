"""How much a trained network changes with its input, and what its feature maps look like by depth."""

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
from normbench.system.schema import PositiveReal


class Smoothness(ScoreSettings):
    """Lipschitz constants, certified accuracy at `radii` (2-norm, in 255ths), and feature maps by depth.

    examples: test images for what is measured at images. Large layers take seconds each.
    """

    examples: Annotated[int, Field(ge=2)] = 100
    radii: list[PositiveReal] = [8.0, 36.0]


@score("smoothness", Smoothness)
def smoothness(subject: Subject, settings: Smoothness) -> Scores:
    """`smoothness` (see `constants`), and the `features` of the network before (`initial`) and after training."""
    images = subject.images
    chosen = subject.drawn("smoothness", settings.examples).to(images.pixels.device)
    x = images.normalized(images.pixels[chosen])
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # which the initial weights are drawn from
        # Before training there are no running statistics: that network is looked at in training mode.
        initial = subject.initial().train()
    found = constants(subject, settings, chosen)
    depth = {"initial": features(initial, x), "trained": features(subject.model, x)}
    return Scores({"smoothness": found, "features": depth})


def constants(subject: Subject, settings: Smoothness, chosen: Tensor) -> dict[str, Any]:
    """The Lipschitz constants of a network, from pixels in 0..1 to logits, with what `bounds` says of its layers.

    chosen: the numbers of some test images, on the device. `bound`: an upper bound for the network, None where there is
    none. `local`: the mean and largest 2-norm of the gradient of the margin between the two largest logits, over
    sqrt(2): a lower estimate of the same. `certified`: for each radius in 255ths the share of the images that are
    classified rightly, and stay so within it by the bound.
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
    found["local"] = {"mean": float(local.mean()), "max": float(local.max()), "examples": len(labels)}
    found["bound"] = None if found["product"] is None else found["product"] / float(images.std.min())
    if found["bound"]:
        radii = margin_radius(logits.detach().double(), labels, found["bound"])
        certified = {f"{radius:g}": float((radii > radius / LEVELS).double().mean()) for radius in settings.radii}
        found["certified"] = certified
    return found


def features(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """Of each block's output, in order of depth: `rms`, `max`, and the share of energy in four bands of frequencies.

    x: normalized images. The bands are thirds of the radius up to half a cycle a pixel; `low` is without the mean of
    the image, which is a band of its own. Blocks are the modules that the code of the model defines; the activations
    of a network without any. Shares of an output without energy are 0, numbers that are not finite None.
    """
    blocks = [m for m in model.modules() if m is not model and is_of_the_model(m, model)]
    blocks = blocks or [m for m in model.modules() if isinstance(m, nn.ReLU)]
    found: list[dict[str, Any]] = []

    def note(_: nn.Module, given: Any, output: Tensor) -> None:
        output = output.detach().cpu().double()  # a device need not have float64
        power = torch.fft.fft2(output).abs().square().sum((0, 1))
        rows, columns = (torch.fft.fftfreq(size, device=output.device) for size in power.shape)
        radius = (rows[:, None].square() + columns.square()).sqrt()
        bands = {"mean": radius == 0, "low": (radius > 0) & (radius <= 1 / 6)}
        bands |= {"middle": (radius > 1 / 6) & (radius <= 1 / 3), "high": radius > 1 / 3}
        total = power.sum().clamp_min(torch.finfo(torch.float64).tiny)
        numbers = {"rms": output.square().mean().sqrt(), "max": output.abs().max()}
        numbers |= {name: power[band].sum() / total for name, band in bands.items()}
        found.append({name: float(value) if value.isfinite() else None for name, value in numbers.items()})

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found
