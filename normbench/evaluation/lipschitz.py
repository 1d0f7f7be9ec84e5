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

from normbench.data.batches import Images
from normbench.evaluation.folding import FirstRow, fold
from normbench.functional.circular_filter import inverse_spectrum_norm
from normbench.functional.graph import LayerTracer, is_of_the_model
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fixup import BiasedConv2d, ScalarAffine, ScalarBias
from normbench.spectral import conv_bound, margin_radius, zero_padded_norm
from normbench.system.errors import UserError

LEVELS = 255
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


def smoothness(model: nn.Module, images: Images, settings: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
    """What `evaluation.smoothness` measures, of some test images (indices on the device), in pixels of 0..1.

    `bound`: of the network, from pixels to logits. `local`: the mean and largest 2-norm of the gradient of the margin
    between the two largest logits, over sqrt(2), a lower estimate of the same. `certified`: for each radius in 255ths
    the share of images that are right, and stay so within it by the bound.
    """
    pixels, labels = images.pixels[chosen].float() / LEVELS, images.labels[chosen]
    x = (pixels - images.mean) / images.std
    found = bounds(model, x[:1])
    given = pixels.clone().requires_grad_()
    with torch.enable_grad():
        logits = model((given - images.mean) / images.std).float()
        top = logits.topk(2, dim=1).values
        (gradient,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), given)
    local = gradient.flatten(1).norm(dim=1) / math.sqrt(2)
    found["local"] = {"mean": float(local.mean()), "max": float(local.max()), "examples": len(labels)}
    found["bound"] = None if found["product"] is None else found["product"] / float(images.std.min())
    if found["bound"]:
        radii = margin_radius(logits.detach().double(), labels, found["bound"])
        certified = {f"{radius:g}": float((radii > radius / LEVELS).double().mean()) for radius in settings["radii"]}
        found["certified"] = certified
    return found


def features(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """Of each block's output, in order of depth: `rms`, `max`, and the share of energy in four bands of frequencies.

    x: normalized images. The bands are thirds of the radius up to half a cycle a pixel; `low` is without the mean of
    the image, which is a band of its own. Blocks are the modules that the code of the model defines; the activations
    of a network without any. Shares of an output without energy are 0, numbers that are not finite None.
    """
    blocks = [m for m in model.modules() if m is not model and is_of_the_model(m, model)]
    blocks = blocks or [m for m in model.modules() if isinstance(m, nn.ReLU)]
    found: list[dict[str, Any]] = []

    def note(_: nn.Module, given: Any, output: Tensor) -> None:
        output = output.detach().cpu().double()  # a device need not have float64
        power = torch.fft.fft2(output).abs().square().sum((0, 1))
        rows, columns = (torch.fft.fftfreq(size, device=output.device) for size in power.shape)
        radius = (rows[:, None].square() + columns.square()).sqrt()
        bands = {"mean": radius == 0, "low": (radius > 0) & (radius <= 1 / 6)}
        bands |= {"middle": (radius > 1 / 6) & (radius <= 1 / 3), "high": radius > 1 / 3}
        total = power.sum().clamp_min(torch.finfo(torch.float64).tiny)
        numbers = {"rms": output.square().mean().sqrt(), "max": output.abs().max()}
        numbers |= {name: power[band].sum() / total for name, band in bands.items()}
        found.append({name: float(value) if value.isfinite() else None for name, value in numbers.items()})

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found
