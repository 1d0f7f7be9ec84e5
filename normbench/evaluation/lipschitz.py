"""How much a trained network can change with its input, in the 2-norm: layer by layer, as a whole, and near the data.

Singla and Feizi, arXiv 1911.10258, for the bounds on convolutions; Tsuzuku et al., arXiv 1802.04034, for the margins.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normbench.evaluation.folding import FirstRow, fold
from normbench.functional.circular_filter import inverse_spectrum_norm
from normbench.functional.graph import LayerTracer
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fixup import BiasedConv2d, ScalarAffine, ScalarBias
from normbench.spectral import conv_bound, zero_padded_norm
from normbench.system.errors import UserError

NEUTRAL = (nn.ReLU, nn.Identity, nn.Flatten, nn.LeakyReLU, FirstRow, ScalarBias)  # constants and slopes of at most 1


class Unbounded(Exception):
    """No bound is known for a layer."""


@torch.no_grad()
def bounds(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Norms of the layers of a folded network, and the bound on the whole that follows from them.

    x: one normalized image, for the sizes of the layers' inputs. `layers`: for each convolution and linear layer in
    order, and each norm that stands apart and scales, its name, an upper `bound` and a lower `estimate` of its norm
    with zero padding at its own size. `product`: the upper bound on the network from normalized images to logits,
    branches added up; None, with `why`, where a layer has no bound.
    """
    try:
        folded = fold(model)
        graph = LayerTracer().trace(folded)
    except UserError as error:
        return {"layers": [], "product": None, "why": str(error)}
    layers = dict(folded.named_modules())
    sizes: dict[str, tuple[int, ...]] = {}  # of input and output

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            sizes[name] = (*given[0].shape, *made.shape)

        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items() if name]
    folded(x)
    for handle in handles:
        handle.remove()
    found: list[dict[str, Any]] = []
    constants: dict[torch.fx.Node, float] = {}
    try:
        for node in graph.nodes:
            of_inputs = [constants[given] for given in node.all_input_nodes]
            if node.op == "placeholder":
                constants[node] = 1.0
            elif node.op == "call_module":
                name = str(node.target)
                norms = layer_norms(layers[name], sizes[name])
                if norms is not None:
                    found.append({"name": name, **norms})
                constants[node] = of_inputs[0] * (1.0 if norms is None else norms["bound"])
            elif node.op == "output":
                if not math.isfinite(of_inputs[0]):
                    raise Unbounded("the norms of the layers are not finite")
                return {"layers": found, "product": of_inputs[0]}
            else:
                constants[node] = of_operation(node, of_inputs, sizes)
    except Unbounded as error:
        return {"layers": found, "product": None, "why": str(error)}
    raise AssertionError("a graph ends in its output")


def layer_norms(layer: nn.Module, sizes: tuple[int, ...]) -> dict[str, Any] | None:
    """`bound` and `estimate` (None for a ConvNorm2d) of a linear layer, None for one of slope at most 1.

    Raises Unbounded for any other.
    """
    match layer:
        case nn.Conv2d():
            bound = conv_bound(layer.weight, layer.stride[0], groups=layer.groups)
            padding = layer.padding
            assert isinstance(padding, tuple)
            estimate = zero_padded_norm(
                layer.weight, (sizes[2], sizes[3]), layer.stride[0], (padding[0], padding[1]), groups=layer.groups
            )
        case nn.Linear():
            bound = estimate = torch.linalg.matrix_norm(layer.weight.double(), 2)
        case ConvNorm2d():
            bound = filtered_bound(layer, sizes)
            if layer.affine is not None:
                bound = bound * conv_bound(layer.affine.weight, groups=layer.affine.groups)
            if layer.batch_norm is not None:
                bound = bound * largest_gain(layer.batch_norm)
            return {"bound": float(bound), "estimate": None}
        case nn.BatchNorm2d():
            gain = float(largest_gain(layer))
            return {"bound": gain, "estimate": gain}
        case BiasedConv2d():
            return layer_norms(layer.layer, sizes)
        case ScalarAffine():
            gain = float(layer.scale.abs())
            return {"bound": gain, "estimate": gain}
        case nn.MaxPool2d() if layer.kernel_size == layer.stride:
            return None
        case _ if isinstance(layer, NEUTRAL):
            return None
        case _:
            raise Unbounded(f"no Lipschitz constant is known for {type(layer).__name__}")
    return {"bound": float(bound), "estimate": float(estimate)}


def largest_gain(norm: nn.BatchNorm2d) -> Tensor:
    """Of the channels of a batch norm in evaluation."""
    gain = (norm.get_buffer("running_var") + norm.eps).rsqrt()
    return (gain if norm.weight is None else gain * norm.weight.abs()).max()


def filtered_bound(layer: ConvNorm2d, sizes: tuple[int, ...]) -> Tensor:
    """Exact norm of the circular convolution with normalized channels, on the layer's own grid; cropping lowers it."""
    height, width = sizes[2] + layer.full[0], sizes[3] + layer.full[1]
    weight = layer.weight.double()
    spectrum = torch.fft.fft2(weight, s=(height, width)) * inverse_spectrum_norm(weight, height, width)[:, None]
    by_group = spectrum.view(layer.groups, -1, *spectrum.shape[1:]).permute(0, 3, 4, 1, 2)
    return torch.linalg.matrix_norm(by_group, 2).max()


def of_operation(node: torch.fx.Node, of_inputs: list[float], sizes: dict[str, tuple[int, ...]]) -> float:
    """The constant after an operation between layers."""
    name = getattr(node.target, "__name__", str(node.target))
    if node.target in (operator.add, torch.add) or name == "add":
        return sum(of_inputs)
    if name in ("relu", "relu_", "flatten", "leaky_relu", "squeeze", "getitem"):
        return of_inputs[0]
    if name == "avg_pool2d" and isinstance(node.args[1], int) and len(node.args) == 2:
        return of_inputs[0] / node.args[1]
    if name == "cat":
        return math.sqrt(sum(constant**2 for constant in of_inputs))
    if name == "mean":
        # The mean over P pixels has norm 1/sqrt(P). The layer before it says how many there are.
        before = node.all_input_nodes[0]
        while before.op != "call_module" or len(sizes.get(str(before.target), ())) != 8:
            if not before.all_input_nodes:
                raise Unbounded("no layer before a mean says how many pixels it is over")
            before = before.all_input_nodes[0]
        return of_inputs[0] / math.sqrt(math.prod(sizes[str(before.target)][6:]))
    raise Unbounded(f"no Lipschitz constant is known for {name}")
