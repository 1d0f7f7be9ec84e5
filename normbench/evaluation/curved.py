"""Finds a network with differentiable activations in a trained classifier, for certificates by its curvature."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normbench.evaluation.folding import fold
from normbench.functional.graph import LayerTracer, computes_as
from normbench.functional.pooling import AveragePool
from normbench.spectral import CurvedLayer, Window, derivatives_of, norm_of
from normbench.spectral.curvature_radius import CurvedNetwork
from normbench.system import blame
from normbench.system.errors import UserError


class Unsuited(Exception):
    """A network is not a chain of affine layers and differentiable activations. The message says what is in the way."""


class Normalized(nn.Module):
    """Images (N, C, H, W) in 0..1 minus `mean`, over `std`, each (C, 1, 1): the input normalization of a network."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@torch.no_grad()
def curved_network(model: nn.Module, image: Tensor, mean: Tensor, std: Tensor) -> CurvedNetwork:
    """The network from images in 0..1 to logits, in float64, with bounds on its layers.

    After folding, it must be a chain of linear layers and zero-padded convolutions, each but the last linear one
    followed by a softplus, sigmoid or tanh. image: (1, C, H, W), which gives the sizes. mean, std: (C, 1, 1), of the
    input normalization. Its scale is part of the first layer, channel by channel. Raises Unsuited for any other
    network.
    """
    try:
        folded = fold(copy.deepcopy(model).double())
        graph = LayerTracer().trace(folded)
    except UserError as error:
        raise Unsuited(str(error)) from None
    except Exception as error:  # The layers may be anybody's.
        raise Unsuited(f"the network cannot be folded: {blame.one_line(error)}") from None
    x, std = image.double(), std.double()
    parts: list[nn.Module] = [Normalized(mean.double(), std)]
    layers: list[CurvedLayer] = []
    affine: tuple[Tensor, Window | None] | None = None  # that no activation has followed yet
    x, before = parts[0](x), None
    for node in list(graph.nodes)[:-1]:
        if node.op == "placeholder":
            before = node
            continue
        if node.all_input_nodes != [before] or len(node.users) != 1:
            raise Unsuited("its layers are not in a chain")
        before, part = node, part_of(node, folded, x)
        weight = weight_of(part, x)
        known = derivatives_of(part) if any(computes_as(part, kind) for kind in SMOOTH) else None
        if weight is not None:
            if not weight[0].isfinite().all():
                raise Unsuited(f"the weights of {node.target} are not finite when norms are folded into them")
            if affine is not None:
                raise Unsuited(f"no activation is before {node.target}")
            affine = weight if layers else scaled(*weight, std, x)
        elif known is not None:
            if affine is None:
                raise Unsuited(f"no affine layer is before the activation {node.target}")
            layers.append(CurvedLayer(affine[0], norm_of(*affine), known, affine[1]))
            affine = None
        parts.append(part)
        x = part(x)
    head = parts.pop()
    if affine is None or not isinstance(head, nn.Linear):
        raise Unsuited("its last layer is not linear")
    if not layers:
        raise Unsuited("it has no hidden layer")
    if head.bias is None:
        head.bias = nn.Parameter(head.weight.new_zeros(len(head.weight)))
    hidden = nn.Sequential(*parts, nn.Flatten())
    return CurvedNetwork(hidden.requires_grad_(False), head.requires_grad_(False), layers)


SMOOTH = (nn.Softplus, nn.Sigmoid, nn.Tanh)
SHAPING = (nn.Flatten, nn.Unflatten, nn.Identity)


def part_of(node: torch.fx.Node, folded: nn.Module, x: Tensor) -> nn.Module:
    """The module of a node, which takes x. Raises Unsuited for what is neither affine, nor smooth, nor a new shape."""
    if node.op != "call_module":
        if getattr(node.target, "__name__", node.target) == "flatten" and node.args[1:] == (1,):
            return nn.Flatten()
        raise Unsuited(f"{getattr(node.target, '__name__', node.target)} is not known")
    part = folded.get_submodule(str(node.target))
    if isinstance(part, AveragePool) and x.shape[2:] == (part.side, part.side):
        return nn.Identity()
    if isinstance(part, nn.Softplus):
        # In float64 it is the softplus itself, and not a straight line from `threshold` on.
        return nn.Softplus(part.beta, threshold=1000) if computes_as(part, nn.Softplus) else part
    if any(computes_as(part, kind) for kind in (*SMOOTH, *SHAPING, nn.Linear)) or isinstance(part, nn.Conv2d):
        return part
    raise Unsuited(f"{type(part).__name__} has no known second derivative")


def weight_of(part: nn.Module, x: Tensor) -> tuple[Tensor, Window | None] | None:
    """The weight of an affine layer that takes x, and the window of a convolution; None for any other module."""
    if isinstance(part, nn.Linear):
        return part.weight, None
    if not isinstance(part, nn.Conv2d):
        return None
    plain = computes_as(part, nn.Conv2d) and not isinstance(part.padding, str) and part.padding_mode == "zeros"
    if not plain or len(set(part.stride)) > 1 or set(part.dilation) != {1}:
        raise Unsuited(
            "it has a convolution that is not plainly zero-padded, or has dilation, or two different strides"
        )
    down, across = (int(pad) for pad in part.padding)
    return part.weight, Window((x.shape[2], x.shape[3]), part.stride[0], (down, across), part.groups)


def scaled(weight: Tensor, window: Window | None, std: Tensor, x: Tensor) -> tuple[Tensor, Window | None]:
    """The weight of the first layer as one of images before they are divided by `std` (C, 1, 1). x: what it takes."""
    if window is None:
        return weight / std.flatten().repeat_interleave(x.shape[1] // len(std)), window
    by_group = weight.unflatten(0, (window.groups, -1)) / std.view(window.groups, 1, -1, 1, 1)
    return by_group.flatten(0, 1), window
