"""Weight Normalization, Salimans and Kingma, NeurIPS 2016, arXiv 1602.07868: each filter is a length times a direction.

The parametrization is torch's, `torch.nn.utils.parametrizations.weight_norm`, which is one operation: w = g v / ||v||
for each output channel. No norm follows, unless `mean_only_batch_norm` asks for the one that the paper combines it with
(section 4).

Deviations: the paper initializes lengths and biases from the outputs of one forward pass. A drop-in layer has no such
pass, so that weights are drawn as by He et al., arXiv 1502.01852 (g is the length of what is drawn), and the last
convolution of each residual branch is made smaller; Arpit, Campos and Bengio, arXiv 1906.02341, show that weight
normalization trains deep residual networks with initial lengths of this kind, without data. The gates of
squeeze-and-excitation are plain convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from normbench.methods.base import ConvSpec, Method, NotNegative, Role


class MeanOnlyBatchNorm2d(nn.Module):
    """x minus the mean of each channel over the batch, plus a learned bias: (N, channels, H, W) to the same shape.

    Evaluation takes a running mean, in which `momentum` is the weight of the new value. The mean is computed in float32
    or wider; the result has the precision of x. Parameter: bias (channels,). Buffer: running_mean (channels,).
    """

    running_mean: Tensor

    def __init__(self, channels: int, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.running_mean
        if self.training:
            mean = x.mean((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
        return (x + (self.bias - mean)[:, None, None]).to(x.dtype)


@dataclass(frozen=True)
class WeightNorm(Method):
    """Weight normalization of all convolutions, which have biases, and of the classifier.

    residual_gain: a factor on the initial length g in the last convolution of each residual branch.
    mean_only_batch_norm: whether the mean of each channel over the batch is subtracted after each convolution.
    """

    residual_gain: NotNegative = 0.1
    mean_only_batch_norm: bool = False

    def conv(self, spec: ConvSpec) -> nn.Module:
        if spec.role.place == "gate":
            return super().conv(spec)
        layer = spec.plain(bias=not self.mean_only_batch_norm or spec.without_norm)
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        layer = weight_norm(layer)
        if spec.role.last_in_block:
            # Of the length alone: a direction of zeros would be no direction.
            layer.parametrizations.weight.original0.data.mul_(self.residual_gain)
        return layer

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return MeanOnlyBatchNorm2d(channels) if self.mean_only_batch_norm else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        return weight_norm(super().linear(in_features, out_features, role=role))
