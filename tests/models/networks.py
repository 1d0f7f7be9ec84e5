"""Narrow networks, one of each family, and what the tests of models ask of a network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.methods.base import Method
from normbench.models import registry
from normbench.models.build import build_classifier

CLASSES = 7
# The options that make a model narrow, by name: a new model that has none of them is tested as wide as it is.
SMALL = {"width": 8, "growth": 2, "side": 8}
# One of each family, the least deep ones: what takes long is tested on them alone.
NARROW = {
    "resnet8": {"width": 4},
    "vgg11": {"width": 4},
    "preact_resnet18": {"width": 8},
    "densenet121": {"growth": 2},
    "resnext29_2x64d": {"width": 8},
    "mobilenet_v2": {"width": 8},
    "senet18": {"width": 32},
    "dpn92": {"width": 4},
    "pnasnet_b": {"width": 4},
    "efficientnet_b0": {"width": 8},
}
ALL = NARROW | {
    name: {option: SMALL[option] for option in registry.get(name).options() if option in SMALL}
    for name in registry.names("classifier")
    if name not in NARROW
}
ON_ALL = pytest.mark.parametrize("name", ALL)
ON_NARROW = pytest.mark.parametrize("name", NARROW)


def images(seed: int, count: int = 8, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def built(name: str, method: Method, channels: int = 3, seed: int = 0) -> nn.Module:
    return build_classifier(name, ALL[name], method, channels, CLASSES, seed)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    return model.eval()(x)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
