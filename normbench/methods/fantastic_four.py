"""Fantastic Four, Singla and Feizi, ICLR 2021, arXiv 1911.10258: a penalty on the norms of convolutions.

Behaviour of the authors' code, singlasahil14/fantastic-four at revision 0b85f0fb. The largest singular value of a
convolution is at most sqrt(kh*kw) times the least of the spectral norms of four reshapings of its kernel. The penalty
adds these bounds up over the convolutions; each norm is followed with one power iteration a training step.

Deviations: the vectors of the iteration are buffers of the network, saved with it; kernels of one shape are iterated
together, which changes nothing in the values; a grouped convolution is bounded by the largest of its groups' bounds,
where the authors bound its kernel as if there were one group. A followed norm is a lower estimate, hence a training
loss and never a certificate: for those, `normbench.spectral`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from normbench.functional.four_norms import LeastNorm, power_step
from normbench.functional.graph import followers
from normbench.methods.base import Method, NotNegative
from normbench.spectral.fantastic_four import reshapings
from normbench.spectral.kernels import polyphase

START_ITERATIONS = 50


class TrackedNorms(nn.Module):
    """The singular vectors of the four reshapings of each layer's kernel, tracked by power iteration during training.

    layers: names of convolutions and linear layers; a weight matrix counts as a 1x1 kernel. batch_norms: maps names of
    convolutions to those of the batch norms that scale their kernels. polyphase: whether a strided kernel is replaced
    by the stride-1 kernel of its phases (see `normbench.spectral.polyphase`).
    groups: the names of the layers, grouped by kernel shape. Buffers: left_<g>_<m> and right_<g>_<m>, for group g and
    matrix m, (kernels, length).
    """

    def __init__(self, model: nn.Module, layers: list[str], batch_norms: dict[str, str], polyphase: bool):
        super().__init__()
        self.batch_norms, self.by_phase = batch_norms, polyphase
        shapes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in layers:
            shapes[tuple(self.kernel(model, name).shape)].append(name)
        self.groups = list(shapes.values())
        for g in range(len(self.groups)):
            for m, matrix in enumerate(reshapings(self.kernels(model, g).detach().flatten(0, 1))):
                self.register_buffer(f"left_{g}_{m}", normalize(torch.randn_like(matrix[:, :, 0]), dim=1))
                self.register_buffer(f"right_{g}_{m}", normalize(torch.randn_like(matrix[:, 0, :]), dim=1))
        with torch.no_grad():
            for _ in range(START_ITERATIONS):
                self(model)

    def kernel(self, model: nn.Module, name: str) -> Tensor:
        """The kernel of a layer for which the bound is computed, (groups, o, i, kh, kw)."""
        layer = model.get_submodule(name)
        weight: Tensor = layer.get_parameter("weight")
        if name in self.batch_norms:
            # The running variance is a constant here: the penalty has no gradient through statistics.
            norm = model.get_submodule(self.batch_norms[name])
            assert isinstance(norm, nn.BatchNorm2d)
            gain = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
            weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
        if not isinstance(layer, nn.Conv2d):
            return weight[None, :, :, None, None]
        if self.by_phase and layer.stride[0] == layer.stride[1] > 1:
            weight = polyphase(weight, layer.stride[0])
        return weight.view(layer.groups, -1, *weight.shape[1:])

    def kernels(self, model: nn.Module, group: int) -> Tensor:
        """The kernels of all layers of a group, (layers, groups, o, i, kh, kw)."""
        return torch.stack([self.kernel(model, name) for name in self.groups[group]])

    def forward(self, model: nn.Module) -> Tensor:
        """Runs one power iteration; returns the bound of every layer, (layers,), in the order of `groups`."""
        result = []
        for g in range(len(self.groups)):
            kernels = self.kernels(model, g)
            layers, groups, _, _, kh, kw = kernels.shape
            flat = kernels.flatten(0, 1)
            lefts = [self.get_buffer(f"left_{g}_{m}") for m in range(4)]
            rights = [self.get_buffer(f"right_{g}_{m}") for m in range(4)]
            with torch.no_grad():
                new_lefts, new_rights, norms = power_step(flat, lefts, rights)
                for old, new in zip(lefts + rights, new_lefts + new_rights, strict=True):
                    old.copy_(new)
            bounds = (kh * kw) ** 0.5 * LeastNorm.apply(flat, norms, *new_lefts, *new_rights)
            result.append(bounds.view(layers, groups).amax(1))
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

    def penalty(self, model: nn.Module) -> Tensor:
        bounds = model.get_submodule("fantastic_four")(model)
        return self.coefficient * (bounds.log() if self.form == "log" else bounds).sum()
