"""Weight Standardization, Qiao, Wang, Liu, Shen and Yuille, arXiv 1903.10520, with group norm after the convolutions.

After the authors' code (joe-siyuan-qiao/WeightStandardization at revision d81e50d0): the weights of each filter lose
their mean and are divided by their unbiased standard deviation plus 1e-5. timm's `StdConv2d` divides by the root of the
biased variance plus 1e-6 instead, so that its weights are larger, by sqrt(n / (n - 1)) for a filter of n weights: by
6 % for a depth-wise 3x3 kernel.

Deviation: a filter that is constant has a finite gradient, where that of the formula divides zero by zero. The
gates of squeeze-and-excitation, which no norm follows, keep their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.standardization import standardized
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Positive
from normbench.methods.group_norm import GroupNorm


class Standardize(Together):
    """A parametrization of a kernel (out, in/groups, kh, kw): mean 0 and deviation 1 in each output channel."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    @classmethod
    def of_all(cls, parts: Sequence[Standardize], originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast(originals[0].device.type, enabled=False):
            return standardized(originals, "deviation", parts[0].eps)


@dataclass(frozen=True)
class WeightStandardization(GroupNorm):
    """Standardized convolutions, each with the group norm of `group_norm`, whose options these are.

    kernel_eps: added to the deviation of a filter.
    """

    kernel_eps: Positive = 1e-5

    def conv(self, spec: ConvSpec) -> nn.Module:
        """Raises ValueError for a filter of a single weight, which has no deviation."""
        layer = super().conv(spec)
        if spec.without_norm:
            return layer
        if spec.kernel_size == 1 and spec.in_channels == spec.groups:
            raise ValueError("weight_standardization: a 1x1 filter of one channel has a single weight, so no deviation")
        return parametrize.register_parametrization(layer, "weight", Standardize(self.kernel_eps))

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)
