"""Upper bounds on the Lipschitz constant of a trained network in the 2-norm, layer by layer and as a whole.

Convolutions are bounded as in Singla and Feizi, arXiv 1911.10258 (see `normbench.spectral`).
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.evaluation.channel_spectra import extremes
from normbench.evaluation.folding import FirstRow, fold
from normbench.functional.circular_filter import inverse_spectrum_norm
from normbench.functional.constants import unchanging
from normbench.functional.graph import LayerTracer, computes_as
from normbench.functional.maxmin import MaxMin
from normbench.functional.pooling import AveragePool
from normbench.methods.cayley import CayleyConv2d
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fixup import BiasedConv2d, ScalarAffine, ScalarBias
from normbench.methods.scaled_weight_standardization import ScaledActivation, SkipInit
from normbench.methods.soc import SocConv2d
from normbench.spectral import affine_norm, conv_bound, spread, zero_padded_norm
from normbench.spectral.frequencies import highest, singular_values_above, symbols
from normbench.spectral.kernels import by_group, largest_singular_value
from normbench.system import blame
from normbench.system.errors import UserError

NEUTRAL = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.Flatten,
    nn.Unflatten,
    nn.Tanh,
    nn.Softplus,
    nn.LeakyReLU,
    MaxMin,
    FirstRow,
    ScalarBias,
)  # Lipschitz constant of at most 1


class Unbounded(Exception):
    """No Lipschitz constant is known for a layer or an operation. The message says which."""


@torch.no_grad()
def bounds(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Norms of the layers of a network after folding, and the bound on the whole network that follows from them.

    x: one normalized image (1, C, H, W), which gives the sizes of the layers' inputs.

    Returns `layers`, `product` and `differences`. `layers` has an entry for each convolution and linear layer, and for
    each scaling norm that could not be folded, in order: its `name`, an upper `bound` on its spectral norm, a lower
    `estimate` of it with zero padding at its image size and, for a convolution, the extremes of its channels'
    `spectrum` (see `channel_spectra.extremes`). `product` is an upper bound on the Lipschitz constant from
    normalized images to logits: layers in sequence multiply, branches that are summed add up. `differences`
    (classes, classes), float64, are upper bounds on the Lipschitz constants of the differences of two logits. If the
    last layer is linear, they are the norms of the differences of its rows times the bound on all layers before it;
    otherwise sqrt(2) times `product`. `product` and `differences` are None, and `why` gives the reason, if some layer
    has no bound.
    """
    try:
        folded = fold(model)
        graph = LayerTracer().trace(folded)
        layers = dict(folded.named_modules())
        sizes, logits = sizes_in(folded, x)
    except UserError as error:
        return unbounded([], str(error))
    except Exception as error:  # The layers may be anybody's.
        return unbounded([], f"the network cannot be folded: {blame.one_line(error)}")
    classes = logits[0].numel()  # 1 for the score of a discriminator
    found: list[dict[str, Any]] = []
    constants: dict[torch.fx.Node, float] = {}
    try:
        for node in graph.nodes:
            of_inputs: list[float] = []  # once for each use, so twice in x + x
            # The function is called at once, and not kept beyond this turn of the loop.
            torch.fx.map_arg((node.args, node.kwargs), lambda given: of_inputs.append(constants[given]))  # noqa: B023
            if node.op == "placeholder":
                constants[node] = 1.0
            elif node.op == "call_module":
                name = str(node.target)
                # Folding divides by deviations of the training images, so it can overflow.
                if not all(weight.isfinite().all() for weight in layers[name].parameters()):
                    raise Unbounded(f"the weights of {name} are not finite when norms are folded into them")
                try:
                    norms = layer_norms(layers[name], sizes.get(name, ()))
                except Unbounded as error:
                    raise Unbounded(f"{error}, the layer {name}") from None
                if norms is not None:
                    if not all(math.isfinite(norm) for norm in norms.values() if norm is not None):
                        raise Unbounded(f"the norm of {name} is not finite")
                    spectrum = (
                        extremes(layers[name], *sizes[name][2:4])
                        if isinstance(layers[name], nn.Conv2d | ConvNorm2d)
                        else None
                    )
                    found.append({"name": name, **norms, "spectrum": spectrum})
                constants[node] = of_inputs[0] * (1.0 if norms is None else norms["bound"])
            elif node.op == "output":
                if not math.isfinite(of_inputs[0]):
                    raise Unbounded("the norms of the layers are not finite")
                (last,) = node.all_input_nodes
                head = layers.get(str(last.target)) if last.op == "call_module" else None
                if isinstance(head, nn.Linear) and computes_as(head, nn.Linear):
                    rows, before = head.weight.double(), constants[last.all_input_nodes[0]]
                    differences = before * (rows[:, None] - rows).norm(dim=2)
                else:
                    differences = torch.full((classes, classes), math.sqrt(2) * of_inputs[0], dtype=torch.float64)
                return {"layers": found, "product": of_inputs[0], "differences": differences}
            else:
                constants[node] = of_operation(node, of_inputs, sizes)
    except Unbounded as error:
        return unbounded(found, str(error))
    raise AssertionError("a graph ends in its output")


def sizes_in(model: nn.Module, x: Tensor) -> tuple[dict[str, tuple[int, ...]], Tensor]:
    """By the name of a layer, the shape of its input followed by that of its output; and the output of the network.

    x: an input of the network. Only layers from one tensor to one tensor are in it.
    """
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(made, Tensor):
                sizes[name] = (*given[0].shape, *made.shape)

        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in model.named_modules() if name]
    try:
        return sizes, model(x)
    finally:
        for handle in handles:
            handle.remove()


def unbounded(layers: list[dict[str, Any]], why: str) -> dict[str, Any]:
    """The result of `bounds` for a network without a bound."""
    return {"layers": layers, "product": None, "differences": None, "why": why}


def layer_norms(layer: nn.Module, sizes: tuple[int, ...]) -> dict[str, Any] | None:
    """The `bound` and `estimate` of the norm of an affine layer, or None if its Lipschitz constant is at most 1.

    sizes: the shape of the layer's input followed by that of its output. `estimate` is None for activations. Raises
    Unbounded for a layer of an unknown kind.
    """
    match layer:
        case nn.Conv2d() if computes_as(layer, nn.Conv2d):
            padding = layer.padding
            if isinstance(padding, str) or layer.padding_mode != "zeros":
                kind = padding if isinstance(padding, str) else layer.padding_mode
                raise Unbounded(f"no norm is known for a convolution with padding '{kind}'")
            if len(set(layer.stride)) > 1:
                raise Unbounded("no norm is known for a convolution with two different strides")
            stride, dilated = layer.stride[0], spread(layer.weight, (layer.dilation[0], layer.dilation[1]))
            # The symbols of a dilated kernel are those of the kernel itself at other frequencies.
            bound = conv_bound(layer.weight if stride == 1 else dilated, stride, groups=layer.groups)
            padded = (padding[0], padding[1])
            estimate = zero_padded_norm(dilated, (sizes[2], sizes[3]), stride, padded, groups=layer.groups)
        case nn.Linear() if computes_as(layer, nn.Linear):
            bound = estimate = largest_singular_value(by_group(layer.weight, 1)[0, :, :, 0, 0])
        case ConvNorm2d():
            whole = float(filtered_bound(layer, sizes))
            if layer.affine is not None:
                whole *= float(conv_bound(layer.affine.weight, groups=layer.affine.groups))
            if layer.batch_norm is not None:
                whole *= float(largest_gain(layer.batch_norm))
            copied = copy.deepcopy(layer).double().requires_grad_(False)
            with unchanging(copied):
                reached = affine_norm(copied, layer.weight.new_empty((1, *sizes[1:4]), dtype=torch.float64))
            return {"bound": whole, "estimate": float(reached)}
        case CayleyConv2d():
            # Orthogonal up to rounding, which this includes.
            height, width = -(-sizes[2] // layer.stride), -(-sizes[3] // layer.stride)
            matrices = layer.matrices(height, width, layer.weight.dtype).to(torch.complex128)
            bound = estimate = largest_singular_value(matrices).max()
        case SocConv2d():
            # The series of a skew-symmetric matrix with the eigenvalues it is within t^(n+1) / (n+1)! of exp(it).
            norm, terms = float(conv_bound(layer.weight, groups=layer.groups)), layer.eval_terms
            rest = norm ** (terms + 1) / math.factorial(terms + 1)
            return {"bound": 1 + rest, "estimate": max(0.0, 1 - rest)}
        case nn.BatchNorm2d() if computes_as(layer, nn.BatchNorm2d) and layer.running_var is not None:
            gain = float(largest_gain(layer))
            return {"bound": gain, "estimate": gain}
        case BiasedConv2d():
            return layer_norms(layer.layer, sizes)
        case ScalarAffine():
            gain = float(layer.scale.abs())
            return {"bound": gain, "estimate": gain}
        case nn.Sigmoid() if computes_as(layer, nn.Sigmoid):
            return {"bound": 0.25, "estimate": None}  # its slope at 0
        case ScaledActivation():
            return {"bound": layer.gain, "estimate": None}  # an activation may be constant where its inputs are
        case SkipInit():
            gain = float((layer.alpha * layer.gain).abs())
            return {"bound": gain, "estimate": gain}
        case AveragePool() if sizes[2:4] == (layer.side, layer.side):
            return None
        case AveragePool():
            # It is a product of one matrix for the rows and one for the columns.
            sides = [torch.eye(size, dtype=torch.float64)[None, :, :, None] for size in sizes[2:4]]
            averaged = [functional.adaptive_avg_pool2d(side, (layer.side, 1))[0, :, :, 0] for side in sides]
            bound = estimate = torch.stack([torch.linalg.matrix_norm(matrix, 2) for matrix in averaged]).prod()
        case nn.MaxPool2d() if layer.kernel_size == layer.stride and layer.dilation == 1:
            return None
        case nn.MaxPool2d(kernel_size=int(side), stride=int(step), dilation=1):
            # A pixel is in at most so many windows along each axis, and moves the largest of each by what it moves.
            return {"bound": float(-(-side // step)), "estimate": None}
        case _ if any(computes_as(layer, kind) for kind in NEUTRAL):
            return None
        case _:
            raise Unbounded(f"no Lipschitz constant is known for {type(layer).__name__}")
    return {"bound": float(bound), "estimate": float(estimate)}


def largest_gain(norm: nn.BatchNorm2d) -> Tensor:
    """The largest factor, 0-d, by which a batch norm in evaluation mode scales a channel."""
    gain = (norm.get_buffer("running_var") + norm.eps).rsqrt()
    return (gain if norm.weight is None else gain * norm.weight.abs()).max()


def filtered_bound(layer: ConvNorm2d, sizes: tuple[int, ...]) -> Tensor:
    """Upper bound, 0-d, on the norm of a ConvNorm2d without its depth-wise kernel and batch norm.

    It is the exact norm of the circular convolution with normalized channels on the grid on which the layer filters.
    The cropping that follows cannot increase it. sizes: see `layer_norms`.
    """
    height, width = sizes[2] + layer.full[0], sizes[3] + layer.full[1]
    kernels = by_group(layer.weight, layer.groups)
    # Half of the grid, as in `symbols`: the norms at opposite frequencies are the same.
    scale = inverse_spectrum_norm(kernels.flatten(0, 1), height, width, layer.dilation)[..., : width // 2 + 1]
    if not scale.isfinite().all():
        return scale.new_tensor(math.inf)
    scale = scale.reshape(*kernels.shape[:2], -1).permute(2, 0, 1)[..., None]

    def normalized() -> Iterator[Tensor]:
        done = 0
        for some in symbols(kernels, height, width, layer.dilation):
            yield some * scale[done : done + len(some)]
            done += len(some)

    norms, _ = highest(normalized(), singular_values_above, layer.groups, kernels.device)
    return norms.max()


def over(node: torch.fx.Node) -> tuple[int, ...]:
    """The dimensions that an operation such as a mean is over; none if it does not list them."""
    found = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    return tuple(side for side in found if isinstance(side, int)) if isinstance(found, tuple | list) else ()


def of_operation(node: torch.fx.Node, of_inputs: list[float], sizes: dict[str, tuple[int, ...]]) -> float:
    """The Lipschitz constant of the output of an operation between layers, such as an addition or a mean.

    of_inputs: the constants of its inputs. sizes: by layer, see `layer_norms`. Raises Unbounded for an operation of an
    unknown kind.
    """
    name = getattr(node.target, "__name__", str(node.target))
    if (node.target in (operator.add, torch.add) or name == "add") and not node.kwargs:
        return sum(of_inputs)
    if name in ("relu", "relu_", "flatten", "leaky_relu", "squeeze", "getitem"):
        return of_inputs[0]
    if name == "avg_pool2d" and len(node.args) == 2 and isinstance(node.args[1], int) and not node.kwargs:
        return of_inputs[0] / node.args[1]
    if name == "cat":
        return math.sqrt(sum(constant**2 for constant in of_inputs))
    if name in ("mean", "sum") and {side % 4 for side in over(node)} == {2, 3}:
        # The mean over P pixels has norm 1/sqrt(P). P is known from the output of the last layer before it.
        before = node.all_input_nodes[0]
        while before.op != "call_module" or len(sizes.get(str(before.target), ())) != 8:
            if not before.all_input_nodes:
                raise Unbounded(f"no layer before a {name} says how many pixels it is over")
            before = before.all_input_nodes[0]
        pixels = math.prod(sizes[str(before.target)][6:])
        return of_inputs[0] * math.sqrt(pixels if name == "sum" else 1 / pixels)
    raise Unbounded(f"no Lipschitz constant is known for {name}")
