"""Fantastic Four, Singla and Feizi, ICLR 2021, arXiv 1911.10258: a penalty on the norms of convolutions.

Behaviour of the authors' code, singlasahil14/fantastic-four at revision 0b85f0fb. The largest singular value of a
convolution is at most sqrt(kh*kw) times the least of the spectral norms of four reshapings of its kernel. The penalty
adds these bounds up over the convolutions; each norm is followed with one power iteration a training step.

Deviations: the vectors of the iteration are buffers of the network, saved with it; kernels of one shape are iterated
together, which changes nothing in the values. A followed norm is a lower estimate, hence a training loss and never a
certificate.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from normbench.methods.base import Method, NotNegative

START_ITERATIONS = 50


def reshapings(kernels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The paper's R, S, T and U of kernels (L, o, i, h, w), each (L, rows, columns)."""
    count, o, i, h, w = kernels.shape
    return (
        kernels.transpose(2, 3).reshape(count, o * h, i * w),
        kernels.permute(0, 1, 4, 2, 3).reshape(count, o * w, i * h),
        kernels.reshape(count, o, i * h * w),
        kernels.transpose(1, 2).reshape(count, i, o * h * w),
    )


class TrackedNorms(nn.Module):
    """Left and right singular vectors of the four reshapings, followed by power iteration, for a set of kernels.

    groups: for each kernel shape (o, i, h, w), the names of the modules whose `weight` has it (a weight matrix counts
    as a 1x1 kernel). Buffers: left_<g>_<m> and right_<g>_<m> for group g and reshaping m.
    """

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        shapes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in names:
            shapes[tuple(self.kernel(model, name).shape)].append(name)
        self.groups = list(shapes.values())
        for g in range(len(self.groups)):
            for m, matrix in enumerate(reshapings(self.kernels(model, g))):
                self.register_buffer(f"left_{g}_{m}", normalize(torch.randn_like(matrix[:, :, 0]), dim=1))
                self.register_buffer(f"right_{g}_{m}", normalize(torch.randn_like(matrix[:, 0, :]), dim=1))
        for _ in range(START_ITERATIONS):
            self.iterate(model)

    @staticmethod
    def kernel(model: nn.Module, name: str) -> Tensor:
        weight = model.get_parameter(f"{name}.weight")
        return weight if weight.dim() == 4 else weight[:, :, None, None]

    def kernels(self, model: nn.Module, group: int) -> Tensor:
        return torch.stack([self.kernel(model, name) for name in self.groups[group]])

    @torch.no_grad()
    def iterate(self, model: nn.Module) -> None:
        """One power iteration of every matrix, from its right vectors."""
        for g in range(len(self.groups)):
            for m, matrix in enumerate(reshapings(self.kernels(model, g))):
                left, right = getattr(self, f"left_{g}_{m}"), getattr(self, f"right_{g}_{m}")
                left.copy_(normalize((matrix @ right[:, :, None])[:, :, 0], dim=1))
                right.copy_(normalize((matrix.mT @ left[:, :, None])[:, :, 0], dim=1))

    def bounds(self, model: nn.Module) -> Tensor:
        """The followed bound of every kernel, (kernels,), in the order of the groups; differentiable in the weights."""
        result = []
        for g in range(len(self.groups)):
            kernels = self.kernels(model, g)
            norms = [
                torch.einsum(
                    "lr,lrc,lc->l",
                    getattr(self, f"left_{g}_{m}").clone(),
                    matrix,
                    getattr(self, f"right_{g}_{m}").clone(),
                )
                for m, matrix in enumerate(reshapings(kernels))
            ]
            taps = kernels.shape[3] * kernels.shape[4]
            result.append(taps**0.5 * torch.stack(norms).amin(0))
        return torch.cat(result)


@dataclass(frozen=True)
class FantasticFour(Method):
    """Batch norm, and `coefficient` times the sum over layers of the bound (or of its logarithm) in the loss.

    coefficient: 8e-4 is that of the authors' timing notebook; the paper searches [0, 2e-3].
    form: `sum` of the bounds, or of their `log` (the authors' code of 2019).
    layers: `conv` alone as in the code, or `all`, with linear layers, as the paper writes.
    """

    coefficient: NotNegative = 8e-4
    form: Literal["sum", "log"] = "sum"
    layers: Literal["conv", "all"] = "conv"

    def initialize(self, model: nn.Module) -> None:
        kinds = (nn.Conv2d,) if self.layers == "conv" else (nn.Conv2d, nn.Linear)
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        model.fantastic_four = TrackedNorms(model, names)

    def penalty(self, model: nn.Module) -> Tensor:
        tracked = model.get_submodule("fantastic_four")
        assert isinstance(tracked, TrackedNorms)
        tracked.iterate(model)
        bounds = tracked.bounds(model)
        return self.coefficient * (bounds.log() if self.form == "log" else bounds).sum()
