"""Networks whose layers follow one another, for losses that need bounds on the whole network in each training step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.functional.graph import LayerTracer, computes_as
from normbench.functional.maxmin import MaxMin
from normbench.functional.pooling import AveragePool
from normbench.functional.power_iteration import power_steps
from normbench.functional.products import matmul
from normbench.methods.cayley import CayleyConv2d
from normbench.methods.soc import SocConv2d
from normbench.spectral.curvature import CurvedLayer, Derivatives, Window, derivatives_of, hessian_bounds, norm_of
from normbench.system import blame
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed

# The largest slope of an activation.
SLOPES: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.LeakyReLU: 1.0,
    MaxMin: 1.0,
    nn.Softplus: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
}
ORTHOGONAL = (CayleyConv2d, SocConv2d)  # layers of norm 1, as is the linear one derived from the latter
STEPS = 50  # of the power iteration, as singlasahil14/so-robust at ed7560c2 takes them


@dataclass
class Link:
    """A convolution or linear layer of a chain. window: of a convolution. activation: what follows it, if anything."""

    layer: nn.Module
    window: Window | None = None
    activation: nn.Module | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as the layer uses it, that is, after its parametrization."""
        return narrowed(self.layer.weight, Tensor, "the weight of a layer")

    def norm(self, seed: int) -> Tensor:
        """The spectral norm, 0-d, differentiable: a bound for a convolution, a lower estimate for a linear layer.

        NaN for a weight that is not finite, so that a training that diverges is seen by its loss. seed: of the vector
        from which the power iteration of a linear layer starts.
        """
        if isinstance(self.layer, ORTHOGONAL):
            return self.layer.bias.new_ones(())
        weight = self.weight
        with torch.autocast(weight.device.type, enabled=False):
            if self.window is None:
                return matrix_norm(weight, seed)
            return norm_of(weight, self.window) if weight.isfinite().all() else weight.new_tensor(torch.nan)


def matrix_norm(weight: Tensor, seed: int) -> Tensor:
    """The largest singular value, 0-d, of a matrix (out, in) after `STEPS` steps of power iteration.

    The gradient is the outer product of the singular vectors. The decomposition of a matrix of 1024 x 1024 would take
    longer than the training step of its layer.
    """
    with torch.no_grad():
        drawn = torch.randn(1, weight.shape[1], generator=torch.Generator().manual_seed(seed))
        (left,), (right,), _ = power_steps([weight.detach()], [drawn.to(weight)], STEPS)
    return matmul(matmul(left, weight), right.mT)[0, 0]


def chain(model: nn.Module, images: Tensor) -> list[Link]:
    """The convolutions and linear layers of a network, in order, each with the activation after it.

    images: (N, C, H, W), one or more of the size that the network is trained on. The network is not changed. Raises
    UserError if its layers do not follow one another, or if there is one whose norm is not known here.
    """
    try:
        nodes = LayerTracer().trace(model).nodes
    except Exception as error:  # The network may be anybody's.
        reason = blame.one_line(error)
        raise UserError(f"its forward pass cannot be traced: {reason}") from None
    layers = {str(node.target): model.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    sizes = sizes_in(model, layers, images)
    found: list[Link] = []
    last: torch.fx.Node | None = None
    for node in nodes:
        if last is not None and node.all_input_nodes != [last]:
            raise UserError(f"its layers do not follow one another: {node.name} takes more than the one before it")
        last = node
        if node.op == "call_module":
            add(found, str(node.target), layers[str(node.target)], sizes)
        elif node.op not in ("placeholder", "output") and getattr(node.target, "__name__", node.target) != "flatten":
            raise UserError(f"nothing is known of the norm of {node.name}")
    return found


def sizes_in(model: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of what each of some layers of a network is given, by their names."""
    found: dict[str, tuple[int, ...]] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found.update({name: tuple(given[0].shape)}))
        for name, layer in layers.items()
    ]
    mode = model.training
    with torch.no_grad():
        model.eval()(images)
    model.train(mode)
    for handle in handles:
        handle.remove()
    return found


def add(found: list[Link], name: str, layer: nn.Module, sizes: dict[str, tuple[int, ...]]) -> None:
    """Adds a layer to a chain, or to the last link if it is an activation. Raises UserError for one it cannot have."""
    size = sizes[name]
    if isinstance(layer, nn.Conv2d) and computes_as(layer, nn.Conv2d):
        padding = layer.padding
        if (
            isinstance(padding, str)
            or layer.padding_mode != "zeros"
            or len({*layer.stride}) > 1
            or max(layer.dilation) > 1
        ):
            raise UserError(f"nothing is known of the norm of the convolution {name} with this padding or dilation")
        window = Window((size[2], size[3]), layer.stride[0], (padding[0], padding[1]), layer.groups)
        found.append(Link(layer, window))
    elif isinstance(layer, ORTHOGONAL) or computes_as(layer, nn.Linear):
        found.append(Link(layer))
    elif any(computes_as(layer, kind) for kind in SLOPES):
        if not found or found[-1].activation is not None:
            raise UserError(f"the activation {name} does not follow a convolution or linear layer")
        found[-1].activation = layer
    elif isinstance(layer, AveragePool):
        if size[2:] != (layer.side, layer.side):
            height, width = size[2:]
            raise UserError(
                f"{name} averages maps of {height} x {width} pixels: model_options.side has to be their size"
            )
    elif not any(computes_as(layer, kind) for kind in (nn.Identity, nn.Flatten, nn.Unflatten)):
        raise UserError(f"nothing is known of the norm of {name}, which is a {type(layer).__name__}")


def lipschitz(links: list[Link], seed: int) -> Tensor:
    """The product of the norms of a chain, 0-d, for the Lipschitz constant from normalized images to logits.

    Differentiable. With power iteration it may be a little too small, so it is for losses, and certifies nothing. seed:
    see `Link.norm`.
    """
    found = links[0].norm(seed)
    for before, link in itertools.pairwise(links):
        found = found * slope(before) * link.norm(seed)
    return found


def slope(link: Link) -> float:
    """The largest slope of the activation of a link."""
    return next((most for kind, most in SLOPES.items() if isinstance(link.activation, kind)), 1.0)


def check_curved(links: list[Link]) -> None:
    """Raises UserError unless a chain has a bounded curvature: differentiable activations, and a linear layer last."""
    for link in links[:-1]:
        if link.activation is None or derivatives_of(link.activation) is None or isinstance(link.layer, ORTHOGONAL):
            kind = type(link.layer if isinstance(link.layer, ORTHOGONAL) else link.activation).__name__
            raise UserError(
                f"nothing is known of the curvature of {kind}: softplus, sigmoid and tanh have a bounded one"
            )
    if len(links) < 2 or not computes_as(links[-1].layer, nn.Linear) or links[-1].activation is not None:
        raise UserError("a curvature needs a hidden layer, and a linear layer at the end")


def curvature(links: list[Link], own: Tensor, other: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """m and M (N,) of the logit differences z_own - z_other, see `hessian_bounds`; differentiable, for a loss alone.

    links: a chain that `check_curved` does not refuse. own, other: classes (N,). seed: see `Link.norm`.
    """
    layers = []
    for link in links[:-1]:
        known = narrowed(derivatives_of(narrowed(link.activation, nn.Module, "an activation")), Derivatives, "it")
        layers.append(CurvedLayer(link.weight, link.norm(seed), known, link.window))
    rows = links[-1].weight
    with torch.autocast(rows.device.type, enabled=False):
        return hessian_bounds(layers, rows[own] - rows[other])
