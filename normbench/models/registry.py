"""Builds a network from the `model` and `model_options` of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from normbench.methods.base import Method
from normbench.models.base import Model, get, names, own
from normbench.models.build import build_classifier

OWN = Path("my_models")

__all__ = ["OWN", "Model", "classifier", "get", "names", "own"]


def classifier(name: str, model_options: dict[str, Any], method: Method, channels: int, classes: int) -> nn.Module:
    """Builds a network from images (N, channels, H, W) to logits (N, classes), initialised by the method.

    name: the name of a model, or a reference to one (see `normbench.models.base.get`). The initial weights are drawn
    from torch's global generator in its current state; `normbench.models.build.build_classifier` takes a seed.
    Raises UserError if there is no such classifier.
    """
    return build_classifier(name, model_options, method, channels, classes)
