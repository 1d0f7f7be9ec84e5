"""Builds and initialises networks. Everything that determines their initial weights passes through here.

Networks are built in training mode with float32 parameters on the CPU; `normbench.functional.placement` moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from normbench.methods.base import Method
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models.base import Model, get
from normbench.system.size import Size

ApplyTo = Literal["discriminator", "generator", "both"]
# The discriminator against which a method in the generator is compared: that of Miyato et al., arXiv 1802.05957.
REFERENCE = SpectralNorm(batch_norm=False)


def build_classifier(
    model: str,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    classes: int,
    seed: int | None = None,
) -> nn.Module:
    """Builds a network from images (N, channels, H, W) to logits (N, classes), initialised by the method.

    model: a name or a reference (see `normbench.models.base.get`). options: the model's options that differ from their
    defaults. seed: seeds torch's global generator, from which layers and methods draw their initial weights, or None to
    leave it as it is. Run `r` of a task uses the seed `derive(task_seed, "init", r)`.

    Raises UserError if there is no such classifier.
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
    *,
    classes: int | None = None,
    apply_to: ApplyTo = "discriminator",
) -> tuple[nn.Module, nn.Module]:
    """Builds a generator, noise (N, latent) -> images (N, channels, size, size), and a discriminator to scores (N,).

    classes: the number of classes, whose labels are the second argument of both networks; None without labels.
    apply_to: where the method applies. A generator without it is the model's own, a discriminator without it has
    spectral norm. The other arguments are those of `build_classifier`.

    Raises UserError if there is no such GAN.
    """
    return new_gan(get(model, "gan"), options, method, channels, size, latent, seed, classes, apply_to)


def new_classifier(
    model: Model,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    classes: int,
    seed: int | None,
) -> nn.Module:
    """`build_classifier` for a model that has already been looked up. The lookup does not affect the weights."""
    _seed(seed)
    network = model.function(method, channels, classes, **options)
    method.initialize(network)
    return network


def new_gan(
    model: Model,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    size: Size,
    latent: int,
    seed: int | None,
    classes: int | None = None,
    apply_to: ApplyTo = "discriminator",
) -> tuple[nn.Module, nn.Module]:
    """`build_gan` for a model that has already been looked up. size: a square, as `Model.size_problem` makes sure.

    The generator has the number of classes as its attribute `classes`.
    """
    _seed(seed)
    generator, discriminator = uninitialized_gan(model, options, method, channels, size, latent, classes, apply_to)
    in_generator, in_discriminator = applied(method, apply_to)
    in_discriminator.initialize(discriminator)
    if in_generator is not None:
        in_generator.initialize(generator)
    generator.classes = classes  # type: ignore[assignment]  # torch declares that attributes are tensors and modules
    return generator, discriminator


def uninitialized_gan(
    model: Model,
    options: Mapping[str, Any],
    method: Method,
    channels: int,
    size: Size,
    latent: int,
    classes: int | None,
    apply_to: ApplyTo,
) -> tuple[nn.Module, nn.Module]:
    """The networks as the model's function makes them, before a method initialises them."""
    in_generator, in_discriminator = applied(method, apply_to)
    besides: dict[str, Any] = {} if classes is None else {"classes": classes}
    besides |= {} if in_generator is None else {"generator_method": in_generator}
    return model.function(in_discriminator, channels, size, latent, **options, **besides)


def applied(method: Method, apply_to: ApplyTo) -> tuple[Method | None, Method]:
    """The methods of the generator, None for the model's own layers, and of the discriminator."""
    return None if apply_to == "discriminator" else method, REFERENCE if apply_to == "generator" else method


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """Loads weights that `normbench.runs.checkpoint.save_weights` wrote into a network on any device; returns it.

    Raises FileNotFoundError if there is no such file, and RuntimeError if it is damaged or of another network.
    """
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network


def _seed(seed: int | None) -> None:
    """Seeds torch unless `seed` is None. Call it after the model's file is imported, as that might draw numbers."""
    if seed is not None:
        torch.manual_seed(seed)
