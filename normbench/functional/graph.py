"""Traces a network to find which layer takes the output of which."""

from __future__ import annotations

import torch
from torch import nn

from normbench.functional.convolution import Conv2d
from normbench.system.errors import UserError


class LayerTracer(torch.fx.Tracer):
    """Traces a network down to its layers.

    It traces into `nn.Sequential` and into the modules that the model's code defines; all others are layers.
    """

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return type(module) is not nn.Sequential and not is_of_the_model(module, self.root)


def is_of_the_model(module: nn.Module, network: nn.Module) -> bool:
    """Whether a module of a network, such as a residual block, is defined by the model's code, not torch or a method.

    The model's code is normbench.models or, for a user-defined model, the file of the network's class.
    """
    place, own = type(module).__module__, type(network).__module__
    return place.startswith("normbench.models.") or (place == own and not own.startswith("torch."))


def computes_as(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is of a class of torch and has its forward pass, and not that of a class derived from it."""
    if not isinstance(layer, kind):
        return False
    derived = type(layer).__mro__[: type(layer).__mro__.index(kind)]
    return not any({"forward", "_conv_forward"} & vars(each).keys() for each in derived if each is not Conv2d)


def followers(model: nn.Module, first: type[nn.Module], second: type[nn.Module]) -> dict[str, str]:
    """Finds layers of class `first` whose output is used by one layer of class `second` and by nothing else.

    Returns a dictionary from the name of the former to that of the latter, of layers that `computes_as` their class
    does. Raises UserError if the network's forward pass cannot be traced.
    """
    try:
        graph = LayerTracer().trace(model)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{type(model).__name__}: its forward pass cannot be traced: {reason}") from error
    layers = dict(model.named_modules())
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and computes_as(layers[node.target], first) and len(node.users) == 1:
            (user,) = node.users
            if user.op == "call_module" and computes_as(layers[user.target], second):
                found[node.target] = user.target
    return found
