"""The choice of an activation that some networks have as an option.

They are added to `ACTIVATIONS` here, so that one more of them changes the digest of these networks alone, and no
method's. Their Lipschitz constant is at most 1, and 1/4 for the sigmoid. Softplus, the sigmoid and tanh have the second
derivatives that the certificates of Singla and Feizi, arXiv 2006.00731, need.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from normbench.functional.maxmin import MaxMin
from normbench.methods.base import ACTIVATIONS, Method, Role

Activation = Literal["relu", "maxmin", "sigmoid", "softplus", "tanh"]

ACTIVATIONS.update({"maxmin": MaxMin, "softplus": nn.Softplus, "tanh": nn.Tanh})


def after_no_norm(method: Method, channels: int, role: Role) -> nn.Module:
    """The activation of a layer that no norm follows, (N, channels, H, W) to the same shape.

    It is the method's, or the architecture's own where the method has the activation in its norms.
    """
    found = method.activation(channels, role=role)
    return ACTIVATIONS[role.activation]() if isinstance(found, nn.Identity) else found
