"""Scaled Weight Standardization, Brock, De and Smith, ICLR 2021, arXiv 2101.08692: residual networks without norms.

After the authors' code (google-deepmind/deepmind-research, nfnets, at revision 68a1754d). Each filter loses its mean
and is divided by the root of its sum of squares, max(n * variance, 1e-4) for n weights, and multiplied by a learned
gain. The activations are multiplied by a constant gamma, which gives them variance 1 for normal inputs (1.713 for
ReLU). Convolutions have biases. A residual branch ends in a factor alpha = 0.2 and a learned scalar that starts at 0
(SkipInit, De and Smith, arXiv 2002.10444). timm's `ScaledStdConv2d` adds 1e-6 to the variance where the authors bound n
times it from below, so that filters of small weights, as wide layers may have them, differ. Its weights contain gamma.

Deviations, as far as these are parts of a network and not layers: a network keeps its order of layers, where theirs are
pre-activation networks; the input of a block is not divided by its expected deviation (beta), so that the variance
grows by a factor of 1 + alpha^2 a block, and not by alpha^2; there is no stochastic depth and no adaptive clipping of
gradients. Gates of squeeze-and-excitation and the classifier are plain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.functional.standardization import standardized
from normbench.functional.together import Together, compute_together
from normbench.methods.base import ConvSpec, Method, NotNegative, Positive, Role


class ScaledStandardize(Together):
    """A parametrization of a kernel (out, in/groups, kh, kw): mean 0 and norm |gain| in each output channel.

    Parameter: gain (out, 1, 1, 1).
    """

    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(weight.new_ones(len(weight), 1, 1, 1))

    @classmethod
    def of_all(cls, parts: Sequence[ScaledStandardize], originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast(originals[0].device.type, enabled=False):
            gains = [part.gain for part in parts]
            return standardized(originals, "root of the sum of squares", parts[0].eps, gains)


def unit_gain(slope: float) -> float:
    """1 over the standard deviation of a ReLU of standard normal numbers, leaky with this slope."""
    return 1 / math.sqrt((1 + slope**2) / 2 - (1 - slope) ** 2 / (2 * math.pi))


class ScaledActivation(nn.Module):
    """A ReLU or a leaky one, times the factor that gives it variance 1 for standard normal inputs."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.activation = activation
        self.gain = unit_gain(getattr(activation, "negative_slope", 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x) * self.gain


class SkipInit(nn.Module):
    """The end of a residual branch: x times alpha and a learned number, which starts at `initial`."""

    def __init__(self, alpha: float, initial: float):
        super().__init__()
        self.alpha = alpha
        self.gain = nn.Parameter(torch.tensor([initial]))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.alpha * self.gain).to(x.dtype)


@dataclass(frozen=True)
class ScaledWeightStandardization(Method):
    """Convolutions of scaled standardized weights, scaled activations, and no norms.

    alpha: the factor on each residual branch. skip_gain: where the learned factor on it starts. kernel_eps: the least
    sum of squares of a filter.
    """

    alpha: Positive = 0.2
    skip_gain: NotNegative = 0.0
    kernel_eps: Positive = 1e-4

    def conv(self, spec: ConvSpec) -> nn.Module:
        """Raises ValueError for a filter of a single weight, which has no variance."""
        if spec.without_norm:
            return super().conv(spec)
        if spec.kernel_size == 1 and spec.in_channels == spec.groups:
            raise ValueError("scaled_weight_standardization: a 1x1 filter of one channel has a single weight")
        layer = spec.plain(bias=True)
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
        nn.init.zeros_(layer.get_parameter("bias"))
        part = ScaledStandardize(layer.weight, self.kernel_eps)
        parametrize.register_parametrization(layer, "weight", part)
        return nn.Sequential(layer, SkipInit(self.alpha, self.skip_gain)) if spec.role.last_in_block else layer

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.Identity()

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        plain = super().activation(channels, role=role)
        return ScaledActivation(plain) if role.activation else plain

    def initialize(self, model: nn.Module) -> None:
        compute_together(model)
