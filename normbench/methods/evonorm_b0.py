"""EvoNorm-B0, Liu, Brock, Simonyan and Le, NeurIPS 2020, arXiv 2004.02967: a norm and its activation in one.

    weight * x / max(sqrt(variance of the batch + eps), v * x + sqrt(variance of the map + eps)) + bias

It replaces a batch norm and the activation that follows it. Where no activation follows, after residual additions, and
at the beginning, it is as `evonorm_s0` is. eps is that of timm (huggingface/pytorch-image-models at aa4b5850); the
authors' code (tensorflow/tpu at 0325bfff) has 1e-5. The running variance is unbiased, as in timm and in torch's batch
norm; the authors' is biased. timm divides by zero for a batch with a single value in each channel, whose variance is
zero here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.functional.moments import moments, pooled
from normbench.functional.running import track, unbiased
from normbench.functional.wide import Wide
from normbench.methods.base import ConvSpec, Method, Positive, Role
from normbench.methods.evonorm_s0 import scaled_by_fan_in, without_activation


class EvoNormB0Layer(Wide):
    """The layer with its activation: (N, channels, H, W) to the same shape.

    momentum: weight of the new value in the running variance. Parameters: weight, bias, v (channels,). Buffer:
    running_var (channels,).
    """

    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def wide(self, x: Tensor) -> Tensor:
        mean, variance = moments(x, (2, 3))
        whole = self.of_batch(mean, variance, x.shape[2] * x.shape[3])
        roots = ((each + self.eps).sqrt() for each in (whole, variance))
        return Quotient.apply(x, *roots, *(each.view(-1, 1, 1) for each in (self.v, self.weight, self.bias)))

    def of_batch(self, mean: Tensor, variance: Tensor, pixels: int) -> Tensor:
        """The variance of each channel, broadcasting to (N, C, 1, 1), of the batch or from training."""
        if not self.training:
            return self.running_var.view(-1, 1, 1)
        _, whole = pooled(mean, variance, 0)
        track([self.running_var], [unbiased(whole.detach().view(-1), len(mean) * pixels)], self.momentum)
        return whole


class Quotient(torch.autograd.Function):
    """weight * x / max(batch, v * x + instance) + bias.

    x: (N, C, H, W). batch, instance: standard deviations, (1, C, 1, 1) or (C, 1, 1), and (N, C, 1, 1). v, weight, bias:
    (C, 1, 1).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, batch: Tensor, instance: Tensor, v: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        divisor = torch.maximum(batch, torch.addcmul(instance, x, v))
        ctx.save_for_backward(x, batch, v, weight, divisor)
        return torch.addcmul(bias, x / divisor, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, batch, v, weight, divisor = ctx.saved_tensors
        quotient, direct = x / divisor, gradient * weight / divisor
        of_divisor = (direct * quotient).neg_()
        of_second = of_divisor * (divisor > batch)
        of_x = torch.addcmul(direct, of_second, v)
        over_batch = of_divisor - of_second, of_second * x, gradient * quotient, gradient
        of_batch, of_v, of_weight, of_bias = (each.sum((0, 2, 3))[:, None, None] for each in over_batch)
        return of_x, of_batch.view_as(batch), of_second.sum((2, 3), keepdim=True), of_v, of_weight, of_bias


@dataclass(frozen=True)
class EvoNormB0(Method):
    """The norms with their activations; what an architecture has after a residual addition stays.

    momentum: the weight of the new value in the running variance.
    zero_init: whether residual branches start at zero.
    """

    eps: Positive = 1e-3
    momentum: Positive = 0.1
    zero_init: bool = False

    def conv(self, spec: ConvSpec) -> nn.Module:
        return scaled_by_fan_in(super().conv(spec))

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        if not role.activation:
            return without_activation(channels, role, self.zero_init)
        return EvoNormB0Layer(channels, self.eps, self.momentum)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return super().activation(channels, role=role) if role.place == "addition" else nn.Identity()
