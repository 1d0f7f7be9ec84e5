"""Which layer of a network works on the output of which."""

from __future__ import annotations

import torch
from torch import nn

from normbench.system.errors import UserError


class LayerTracer(torch.fx.Tracer):
    """Follows a network down to its layers: into sequences and what its model defines, and no further."""

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return type(module) is not nn.Sequential and not is_of_the_model(module, self.root)


def is_of_the_model(module: nn.Module, network: nn.Module) -> bool:
    """Whether the code of a model defines a module of a network, such as a block, and not torch or a method.

    That code is normbench.models and, for a model of the user's own, the file of the network's class.
    """
    place, own = type(module).__module__, type(network).__module__
    return place.startswith("normbench.models.") or (place == own and not own.startswith("torch."))


def followers(model: nn.Module, first: type[nn.Module], second: type[nn.Module]) -> dict[str, str]:
    """Names of the layers of class `first` whose output one layer of class `second` takes, and nothing else does.

    Raises UserError where the network's forward pass cannot be traced.
    """
    try:
        graph = LayerTracer().trace(model)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{type(model).__name__}: its forward pass cannot be traced: {reason}") from error
    layers = dict(model.named_modules())
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(layers[node.target], first) and len(node.users) == 1:
            (user,) = node.users
            if user.op == "call_module" and isinstance(layers[user.target], second):
                found[node.target] = user.target
    return found
