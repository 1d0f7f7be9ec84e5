"""Orthogonal weights, as the parametrization of Lezcano-Casado, NeurIPS 2019, arXiv 1909.09501, in torch.

The weight of a convolution is flattened to its matrix (out, in*kh*kw), whose rows are kept orthonormal, or its columns
where it is tall; weights of this form, with batch norm, are those of Huang et al., AAAI 2018, arXiv 1709.06079. Given
the four-dimensional weight, `torch.nn.utils.parametrizations.orthogonal` makes each kh x kw slice of it orthogonal
instead. A matrix of orthonormal rows is not an orthogonal convolution: for that, `cayley` and `soc`.

Values and parameters are those of torch's `householder` map without a base matrix, which for a convolution would have
(in*kh*kw)^2 entries: below the diagonal are the vectors of reflections, on it the signs of the columns. What torch does
otherwise:

- Its signs are a part of the parameter, of which only the whole-number part is taken. A single step of weight decay
  makes them 0, and the weight with them. Here they are a buffer, and weight decay, which cannot change the length of an
  orthogonal weight, is left out.
- It differentiates the product of reflections one reflection after the other. Here products of matrices do: with the
  vectors as the columns of V, the product is I - V T V^T, where the inverse of T is the upper triangle of V^T V with
  half of its diagonal (Schreiber and Van Loan, SIAM J. Sci. Stat. Comput. 10, 1989).
- A grouped convolution would be one matrix. Here it is one for each group, as its operator is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.products import addmm, matmul
from normbench.functional.tables import identity, table
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Method, Role


def upper_half(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones above the diagonal and one half on it, (size, size)."""
    return torch.ones(size, size, dtype=dtype, device=device).triu() - torch.eye(size, dtype=dtype, device=device) / 2


class Reflections(torch.autograd.Function):
    """The first columns of products of reflections, times signs."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, signs: Tensor) -> Tensor:
        """vectors: (S, n, k), n >= k, of which only what is below the diagonal counts. signs: (S, k). (S, n, k)."""
        rows, columns = vectors.shape[-2:]
        one = nn.functional.pad(table(identity, columns, like=vectors), (0, 0, 0, rows - columns))
        v = vectors.tril(-1) + one
        inverse = matmul(v.mT, v) * table(upper_half, columns, like=v)
        right = torch.linalg.solve_triangular(inverse, v[:, :columns].mT, upper=True)
        ctx.save_for_backward(v, inverse, right, signs)
        return addmm(one, v, right, alpha=-1) * signs[:, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        v, inverse, right, signs = ctx.saved_tensors
        columns = v.shape[-1]
        given = gradient * signs[:, None]
        of_top = torch.linalg.solve_triangular(inverse.mT, matmul(v.mT, given), upper=False)
        of_gram = matmul(of_top, right.mT) * table(upper_half, columns, like=v)
        found = matmul(v, of_gram + of_gram.mT)
        found = addmm(found, given, right.mT, beta=1, alpha=-1)
        found[:, :columns] -= of_top.mT
        return found.tril(-1), None


class Orthogonal(Together):
    """A parametrization of a weight (out, in/groups, ...) by reflections, whose matrix is orthogonal in each group.

    Its parameter is (groups, n, k), n the larger and k the smaller of out/groups and the inputs of an output.
    Buffer: signs (groups, k).
    """

    signs: Tensor

    def __init__(self, weight: Tensor, groups: int):
        super().__init__()
        self.shape, self.groups = weight.shape, groups
        matrices = self.matrices(weight)
        self.register_buffer("signs", matrices.new_ones(groups, matrices.shape[-1]))

    def matrices(self, weight: Tensor) -> Tensor:
        """The matrices (groups, n, k) of a weight, or of their transposes where these are tall."""
        found = weight.reshape(self.groups, self.shape[0] // self.groups, -1)
        return found if found.shape[1] >= found.shape[2] else found.mT

    def weight(self, matrices: Tensor) -> Tensor:
        """The weight of matrices (groups, n, k)."""
        tall = self.shape[0] // self.groups == matrices.shape[1]
        return (matrices if tall else matrices.mT).reshape(self.shape).contiguous()

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """The parameter of the orthogonal factor of a weight, whose triangular factor has a positive diagonal."""
        reflections, scales = torch.geqrf(self.matrices(weight))
        signs = reflections.diagonal(dim1=-2, dim2=-1).sign()
        # LAPACK leaves out a reflection that would change nothing, where this parametrization turns the sign.
        self.signs.copy_(torch.where(scales == 0, -signs, signs))
        return reflections.tril(-1)

    @classmethod
    def of_all(cls, parts: Sequence[Orthogonal], originals: Sequence[Tensor]) -> list[Tensor]:
        """The weights; matrices of one size are computed together."""
        sizes: dict[torch.Size, list[int]] = {}
        for index, original in enumerate(originals):
            sizes.setdefault(original.shape[1:], []).append(index)
        weights = list(originals)
        with torch.autocast(originals[0].device.type, enabled=False):
            for indices in sizes.values():
                vectors, signs = [originals[i] for i in indices], [parts[i].signs for i in indices]
                together = Reflections.apply(torch.cat(vectors), torch.cat(signs))
                found = together.split([len(each) for each in vectors])
                for i, matrices in zip(indices, found, strict=True):
                    weights[i] = parts[i].weight(matrices)
        return weights


@dataclass(frozen=True)
class OrthogonalWeights(Method):
    """Convolutions of orthogonal weights, each followed by batch norm.

    batch_norm: without it, convolutions have biases. classifier: whether the weight of the classifier is orthogonal
    too, which limits its logits by the length of the features.
    """

    batch_norm: bool = True
    classifier: bool = False

    def conv(self, spec: ConvSpec) -> nn.Module:
        if spec.role.place == "gate" or (spec.without_norm and not self.classifier):
            return super().conv(spec)
        layer = spec.plain(bias=not self.batch_norm or spec.without_norm)
        return self.orthogonal(layer, spec.groups)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        layer = nn.Linear(in_features, out_features)
        return self.orthogonal(layer, 1) if self.classifier else layer

    @staticmethod
    def orthogonal(layer: nn.Conv2d | nn.Linear, groups: int) -> nn.Module:
        """The layer with its weight parametrized, which starts as the orthogonal factor of what it was."""
        part = Orthogonal(layer.weight, groups)
        return parametrize.register_parametrization(layer, "weight", part, unsafe=True)

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        lists = [each for each in model.modules() if isinstance(each, parametrize.ParametrizationList)]
        reflections = [each.original for each in lists if isinstance(each[0], Orthogonal)]
        apart = {id(each) for each in reflections}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
        return [{"params": rest}, {"params": reflections, "weight_decay": 0.0}]
