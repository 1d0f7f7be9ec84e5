"""Fantastic Four, Singla and Feizi, ICLR 2021, arXiv 1911.10258: a penalty on the norms of convolutions.

Behaviour of the authors' code, singlasahil14/fantastic-four at revision 0b85f0fb. The largest singular value of a
convolution is at most sqrt(kh*kw) times the least of the spectral norms of four reshapings of its kernel. The penalty
adds these bounds up over the convolutions; each norm is followed with one power iteration a training step.

Deviations: the vectors of the iteration are buffers of the network, saved with it; kernels with the same taps are
iterated together, which changes nothing in the values; a grouped convolution is bounded by the largest of its groups'
bounds, where the authors bound its kernel as if there were one group. A followed norm is a lower estimate, hence a
training loss and never a certificate: for those, `normbench.spectral`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from normbench.functional.four_norms import Kernels, LeastNorm, Side, Size, columns, pairing, power_step
from normbench.functional.graph import followers
from normbench.methods.base import START, Between, Method, Moment, NotNegative
from normbench.spectral.kernels import polyphase

START_ITERATIONS = 50


class Vectors(nn.Module):
    """The singular vectors of the four reshapings of kernels with as many taps, and one power iteration of them.

    sizes: (groups, output channels, input channels) of each layer, the channels being those of one group.
    Buffers: outputs, inputs: see `normbench.functional.four_norms`.
    """

    outputs: Tensor
    inputs: Tensor

    def __init__(self, sizes: list[Size], height: int, width: int, like: Tensor):
        super().__init__()
        self.sizes, self.taps = sizes, height * width
        pairs = pairing(height, width)
        of_outputs, of_inputs = columns(height, width)
        self.add_side("outputs", Side.of(self.channels(1), of_outputs, pairs), like)
        self.add_side("inputs", Side.of(self.channels(2), of_inputs, pairs.permute(2, 1, 0)), like)

    def channels(self, which: int) -> list[int]:
        """The output (which = 1) or input channels (which = 2) of each kernel."""
        return [size[which] for size in self.sizes for _ in range(size[0])]

    def add_side(self, name: str, side: Side, like: Tensor) -> None:
        """Adds random unit vectors of one side as a buffer, and the constants of the side as `name_<constant>`."""
        for part in dataclasses.fields(Side):
            value: Tensor = getattr(side, part.name)
            self.register_buffer(
                f"{name}_{part.name}", value.to(like) if value.is_floating_point() else value.to(like.device), False
            )
        drawn = torch.randn(side.cells.shape, dtype=like.dtype, device=like.device)
        self.register_buffer(name, self.side(name).directions(drawn, drawn)[0])

    def side(self, name: str) -> Side:
        """The constants of one side."""
        return Side(*(self.get_buffer(f"{name}_{part.name}") for part in dataclasses.fields(Side)))

    def forward(self, weights: list[Tensor]) -> Tensor:
        """Runs one power iteration; returns the bound of every kernel, (kernels,). weights: (groups * o, i, h, w)."""
        kernels = Kernels.of(weights, self.sizes, self.side("outputs"), self.side("inputs"))
        with torch.no_grad():
            outputs, inputs, norms = power_step(kernels, self.outputs, self.inputs)
            torch._foreach_copy_([self.outputs, self.inputs], [outputs, inputs])
        return self.taps**0.5 * LeastNorm.apply(norms, outputs, inputs, kernels, *weights)


class TrackedNorms(nn.Module):
    """The singular vectors of the four reshapings of each layer's kernel, tracked by power iteration during training.

    layers: names of convolutions and linear layers; a weight matrix counts as a 1x1 kernel. batch_norms: maps names of
    convolutions to those of the batch norms that scale their kernels. polyphase: whether a strided kernel is replaced
    by the stride-1 kernel of its phases (see `normbench.spectral.polyphase`).
    layers: the names, by the size of the kernels; vectors: a module for each size.
    """

    def __init__(self, model: nn.Module, layers: list[str], batch_norms: dict[str, str], polyphase: bool):
        super().__init__()
        self.batch_norms, self.by_phase = batch_norms, polyphase
        sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in layers:
            sizes[tuple(self.kernel(model, name).shape[2:])].append(name)
        self.layers = list(sizes.values())
        self.vectors = nn.ModuleList()
        for (height, width), names in sizes.items():
            found = []
            for name in names:
                kernel, groups = self.kernel(model, name), self.groups(model, name)
                found.append((groups, kernel.shape[0] // groups, kernel.shape[1]))
            self.vectors.append(Vectors(found, height, width, kernel.detach()))
        with torch.no_grad():
            for _ in range(START_ITERATIONS if layers else 0):
                self(model)

    @staticmethod
    def groups(model: nn.Module, name: str) -> int:
        """The number of groups of a layer."""
        layer = model.get_submodule(name)
        return layer.groups if isinstance(layer, nn.Conv2d) else 1

    def kernel(self, model: nn.Module, name: str) -> Tensor:
        """The kernel of a layer for which the bound is computed, (groups * o, i, kh, kw)."""
        layer = model.get_submodule(name)
        weight: Tensor = layer.get_parameter("weight")
        if name in self.batch_norms:
            # The running variance is a constant here: the penalty has no gradient through statistics.
            norm = model.get_submodule(self.batch_norms[name])
            assert isinstance(norm, nn.BatchNorm2d)
            gain = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
            weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
        if not isinstance(layer, nn.Conv2d):
            return weight[:, :, None, None]
        # The phases of a dilated kernel are others; ignoring the stride leaves a bound.
        if self.by_phase and layer.stride[0] == layer.stride[1] > 1 and max(layer.dilation) == 1:
            weight = polyphase(weight, layer.stride[0])
        return weight

    def forward(self, model: nn.Module) -> Tensor:
        """Runs one power iteration; returns the bound of every layer, (layers,), in the order of `layers`."""
        result = []
        for names, vectors in zip(self.layers, self.vectors, strict=True):
            assert isinstance(vectors, Vectors)
            weights = [self.kernel(model, name) for name in names]
            with torch.autocast(weights[0].device.type, enabled=False):
                bounds = vectors(weights)
            groups = [size[0] for size in vectors.sizes]
            whole = all(count == 1 for count in groups)
            result.append(bounds if whole else torch.stack([part.amax() for part in bounds.split(groups)]))
        return torch.cat(result)


@dataclass(frozen=True)
class FantasticFour(Method):
    """Batch norm, and `coefficient` times the sum over layers of the bound (or of its logarithm) in the loss.

    coefficient: 8e-4 is that of the authors' timing notebook; the paper searches [0, 2e-3].
    form: `sum` of the bounds, or of their `log` (the authors' code of 2019).
    layers: `conv` alone as in the code, or `all`, with linear layers, as the paper writes.
    batch_norm: whether a kernel is scaled by the batch norm behind it before it is bounded. Otherwise its scale has no
        effect on the network, and the penalty acts like a weight decay, as in the authors' code.
    polyphase: bound a strided convolution by the kernel of its phases, which is tighter than ignoring the stride.
    """

    tunable: ClassVar = {"coefficient": Between(1e-5, 1e-2)}

    coefficient: NotNegative = 8e-4
    form: Literal["sum", "log"] = "sum"
    layers: Literal["conv", "all"] = "conv"
    batch_norm: bool = False
    polyphase: bool = False

    def initialize(self, model: nn.Module) -> None:
        kinds = (nn.Conv2d,) if self.layers == "conv" else (nn.Conv2d, nn.Linear)
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        batch_norms = followers(model, nn.Conv2d, nn.BatchNorm2d) if self.batch_norm else {}
        model.fantastic_four = TrackedNorms(model, names, batch_norms, self.polyphase)

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        if not model.get_submodule("fantastic_four").layers:
            return None  # a network of linear layers alone has nothing to bound, unless `layers` is `all`
        bounds = model.get_submodule("fantastic_four")(model)
        return self.coefficient * (bounds.log() if self.form == "log" else bounds).sum()
