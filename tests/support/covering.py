"""Which networks, methods and settings are tried together, where trying all together would take long.

A network is tried with the methods of `FEW`. Every method is tried with the networks of `KINDS`, which have all kinds of
layers between them. So what a method does to a kind of layer, and what a network does to its layers, is tried in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from normbench.methods import registry
from tests.support.short_models import IMPOSSIBLE, SHORT

FEW = ("batch_norm", "conv_norm", "fantastic_four", "network_deconvolution", "spectral_batch_norm")
KINDS = ("imagenet_resnet", "lenet", "mlp", "pnasnet", "resnext")

Setting = TypeVar("Setting")


def covering(settings: Sequence[Setting]) -> list[tuple[str, str, Setting]]:
    """Names of short networks and of methods, each pair with one setting; every method meets several of them."""
    return [
        (network, method, settings[(i + j) % len(settings)])
        for i, network in enumerate(SHORT)
        for j, method in enumerate(registry.names())
        if (network in KINDS or method in FEW) and (network, method) not in IMPOSSIBLE
    ]
