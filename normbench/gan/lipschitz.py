"""An upper bound on the Lipschitz constant of a trained discriminator."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normbench.evaluation.lipschitz import bounds


def lipschitz_bound(discriminator: nn.Module, images: Tensor, classes: int | None) -> tuple[float | None, str]:
    """Returns the bound in the 2-norm, from images in -1..1 to scores, or None and the reason why there is none.

    images: (1, C, H, W). classes: the number of classes that the discriminator is given, or None. With classes, it is
    the largest of their bounds: the features' times the norm of the linear map from features to the score of a class.
    """
    if classes is None:
        found = bounds(discriminator, images)
        return found["product"], found.get("why", "")
    if not type(discriminator).__module__.startswith("normbench.models."):
        return None, "no Lipschitz constant is known for a discriminator of your own that is given classes"
    features = copy.deepcopy(discriminator).eval()
    head, projection = features.get_submodule("head"), features.get_submodule("projection")
    inputs: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        features(images)
    handle.remove()
    zeros = torch.zeros_like(inputs[0])
    rows = [torch.autograd.functional.jacobian(layer, zeros).flatten(0, -3).flatten(1) for layer in (head, projection)]
    norm = float((rows[0] + rows[1]).norm(dim=1).max())
    # What the network then returns is one of its features, whose bound is that of all.
    features.set_submodule("head", nn.Identity())
    features.register_module("projection", None)
    found = bounds(features, images)
    return None if found["product"] is None else norm * found["product"], found.get("why", "")
