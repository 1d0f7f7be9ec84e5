"""From the `model` and `model_options` of a task to a network."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from normbench.methods.base import Method

# name in params.yaml -> file in this folder, which has a function of that name
CLASSIFIERS = {
    "resnet8": "resnet",
    "resnet20": "resnet",
    "resnet32": "resnet",
    "resnet44": "resnet",
    "resnet56": "resnet",
    "resnet110": "resnet",
    "resnet18": "resnet",
    "resnet34": "resnet",
    "vgg11": "vgg",
    "vgg13": "vgg",
    "vgg16": "vgg",
    "vgg19": "vgg",
    "preact_resnet18": "preact_resnet",
    "densenet100": "densenet",
    "densenet121": "densenet",
    "resnext29_2x64d": "resnext",
    "resnext29_32x4d": "resnext",
    "mobilenet_v2": "mobilenet_v2",
    "senet18": "senet",
}
GANS = {"sngan": "sngan"}


def source_file(name: str) -> Path:
    return Path(__file__).parent / f"{(CLASSIFIERS | GANS)[name]}.py"


def function(name: str) -> Any:
    return getattr(importlib.import_module(f"normbench.models.{(CLASSIFIERS | GANS)[name]}"), name)


def options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults: the keyword-only arguments of its function."""
    parameters = inspect.signature(function(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def image_size_problem(name: str, size: int) -> str | None:
    """What is wrong with square images of `size` pixels a side for a model, or None."""
    least, divisor = getattr(importlib.import_module(function(name).__module__), "IMAGE_SIZE", (1, 1))
    if size >= least and size % divisor == 0:
        return None
    needed = f"at least {least} pixels a side" + (f", divisible by {divisor}" if divisor > 1 else "")
    return f"does not fit images of {size} x {size}; it needs {needed}"


def classifier(name: str, model_options: dict[str, Any], method: Method, channels: int, classes: int) -> nn.Module:
    """A network from images (N, channels, H, W) to logits (N, classes), built and initialised by `method`."""
    model = function(name)(method, channels, classes, **model_options)
    method.initialize(model)
    return model
