"""Spectral Normalization, Miyato et al., arXiv 1802.05957, as `torch.nn.utils.parametrizations.spectral_norm`.

The weight is divided by the largest singular value of its (out, in*kh*kw) matrix. That is not the norm of the
convolution, which can be up to sqrt(kh*kw) larger (Singla and Feizi, arXiv 1911.10258).

Values are those of torch up to rounding, but all weights of a network are normalized together, at the start of its
forward pass, and the iteration is in float32 whatever autocast says. Gradients are of first order only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.constants import constant
from normbench.functional.power_iteration import divided, in_format_of, power_steps, rows, units
from normbench.functional.products import matmul
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Count, Method, Role

START_STEPS = 15


class UnitNorm(Together):
    """A parametrization that divides a weight (out, ...) by its spectral norm.

    In training mode each use takes `steps` steps of power iteration; in evaluation the vectors stay what they are.
    Buffers: _u, (1, out), and _v, of the shape of one row of the weight, (1, ...), and in its memory format.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, steps: int):
        super().__init__()
        self.steps = steps
        with torch.no_grad():
            matrix = rows(in_format_of(weight, weight))
            drawn = [torch.randn(size, dtype=weight.dtype, device=weight.device) for size in matrix.shape]
            (_, v), _ = units([each[None] for each in drawn])
            v = in_format_of(v.view(1, *weight.shape[1:]), weight)
            (u,), (v,), _ = power_steps([matrix], [rows(v)], START_STEPS)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v.as_strided((1, *weight.shape[1:]), weight.stride()))

    @classmethod
    def of_all(cls, parts: Sequence[UnitNorm], originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The weights over their spectral norms, after the steps of power iteration of one use in training mode."""
        with torch.autocast(originals[0].device.type, enabled=False):
            weights = [in_format_of(weight, weight) for weight in originals]
            with torch.no_grad():
                before = [part.aligned(weight) for part, weight in zip(parts, weights, strict=True)]
                left, right, found = power_steps([rows(weight) for weight in weights], before, parts[0].steps)
                torch._foreach_copy_([*(part._u for part in parts), *before], [*left, *right])
            return divided(weights, left, right, found)

    def alone(self, original: Tensor) -> Tensor:
        if self.training:
            return self.of_all([self], [original])[0]
        return constant(self, "weight", (original,), lambda: self.evaluated(original))

    def aligned(self, weight: Tensor) -> Tensor:
        """The rows (1, k) of v, a view of the buffer, which takes the weight's memory format if it has another."""
        v = in_format_of(self._v, weight)
        if v is not self._v:
            self._v = v
        return rows(v)

    def evaluated(self, weight: Tensor) -> Tensor:
        """The weight over its norm by the vectors as they are."""
        with torch.autocast(weight.device.type, enabled=False):
            weight = in_format_of(weight, weight)
            with torch.no_grad():
                v = rows(in_format_of(self._v, weight))
                norm = (matmul(self._u, rows(weight)) * v).sum()
            return divided([weight], [self._u], [v], [norm])[0]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        # torch's own spectral norm has the same vectors under the same names, without the outer dimensions.
        for name in ("_u", "_v"):
            saved, own = state_dict.get(prefix + name), self.get_buffer(name)
            if saved is not None and saved.dim() == 1 and saved.numel() == own.numel():
                state_dict[prefix + name] = saved.view(own.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


@dataclass(frozen=True)
class SpectralNorm(Method):
    """Every convolution and linear layer normalized; one power iteration a training step.

    batch_norm: a BatchNorm2d after each convolution, as classifiers have it. It undoes the scale of the weights in
        front of it, so that only the classifier keeps its bound; GAN discriminators go without.
    """

    batch_norm: bool = True
    power_iterations: Count = 1

    def conv(self, spec: ConvSpec) -> nn.Module:
        return self.normalized(spec.plain(bias=not self.batch_norm or spec.biased))

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        return self.normalized(nn.Linear(in_features, out_features))

    def normalized(self, layer: nn.Conv2d | nn.Linear) -> nn.Module:
        """The layer with its weight normalized."""
        unit_norm = UnitNorm(layer.weight, self.power_iterations)
        return parametrize.register_parametrization(layer, "weight", unit_norm)

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)
