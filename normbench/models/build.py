"""The one way to build a network: all that shapes its initial weights is here.

What is built has float32 parameters on the CPU and is in training mode; `normbench.functional.placement` moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normbench.methods.base import Method
from normbench.models.base import Model, get


def build_classifier(
    model: str,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    classes: int,
    seed: int | None = None,
) -> nn.Module:
    """A network from images (N, channels, H, W) to logits (N, classes), initialised by the method.

    model: a name or a reference (see `normbench.models.base.get`). options: those of the model that differ from its
    defaults. seed: sets torch's generator, from which layers and methods draw; the weights of run `r` of a task begin
    with `derive(task_seed, "init", r)`. None leaves the generator as it is.

    Raises UserError where there is no such classifier.
    """
    return new_classifier(get(model, "classifier"), options, method, channels, classes, seed)


def build_gan(
    model: str,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    size: int,
    latent: int,
    seed: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """A generator from noise (N, latent) to images (N, channels, size, size), and a discriminator to scores (N,).

    The method builds and initialises the discriminator alone. The other arguments are those of `build_classifier`.

    Raises UserError where there is no such GAN.
    """
    return new_gan(get(model, "gan"), options, method, channels, size, latent, seed)


def new_classifier(
    model: Model,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    classes: int,
    seed: int | None,
) -> nn.Module:
    """`build_classifier` for a model that has been looked up: how it was found shapes no weight."""
    _seed(seed)
    network = model.function(method, channels, classes, **options)
    method.initialize(network)
    return network


def new_gan(
    model: Model,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    size: int,
    latent: int,
    seed: int | None,
) -> tuple[nn.Module, nn.Module]:
    """`build_gan` for a model that has been looked up."""
    _seed(seed)
    generator, discriminator = model.function(method, channels, size, latent, **options)
    method.initialize(discriminator)
    return generator, discriminator


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """Gives a network, wherever it lies, the weights that `normbench.runs.checkpoint.save_weights` wrote; returns it.

    Raises FileNotFoundError where there is no such file, and RuntimeError where it is damaged or of another network.
    """
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network


def _seed(seed: int | None) -> None:
    """Called when the model's file is imported, as a file of the user's own might draw numbers then."""
    if seed is not None:
        torch.manual_seed(seed)
