"""Batch-Instance Normalization, Nam and Kim, NeurIPS 2018, arXiv 1805.07925.

Each channel has a gate between 0 and 1, which mixes the outputs of batch norm and of instance norm:

    y = weight * (gate * batch_normalized + (1 - gate) * instance_normalized) + bias

As in the authors' code (hyseob/Batch-Instance-Normalization at 9af63f6c), gates start at 1, learn ten times as fast as
the rest, have no weight decay, and are clipped to 0..1 after each step of the optimizer. Here that is done at the
beginning of the next training step, and evaluation reads the clipped gates; the numbers are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.wide import Wide
from normbench.methods.base import Method, Positive, Role


class BatchInstanceNorm2d(Wide):
    """A gated mixture of batch norm and instance norm on images (N, channels, H, W).

    momentum: weight of the new value in the running statistics. Parameters: weight, bias and gate (channels,). Buffers:
    running_mean and running_var (channels,). As with batch norm, a training batch of one image with maps of one pixel
    is a ValueError.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gate = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def wide(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            clipped = self.gate.clamp(0, 1)
            if self.training:
                self.gate.copy_(clipped)
        of_batch, of_instance = Gated.apply(self.weight, self.gate, clipped)
        y = self.batch_normalized(x, of_batch.to(x.dtype))
        # Group norm with a channel in each group is instance norm. `instance_norm` would refuse maps of one pixel.
        return y + torch.group_norm(x, x.shape[1], of_instance.to(x.dtype), None, self.eps)

    def batch_normalized(self, x: Tensor, weight: Tensor) -> Tensor:
        """Batch norm with this weight (channels,); updates the running statistics in training mode."""
        mean, variance, bias = (value.to(x.dtype) for value in (self.running_mean, self.running_var, self.bias))
        y = functional.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)
        if self.training and self.running_mean.dtype != x.dtype:  # these were copies
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
        return y


class Gated(torch.autograd.Function):
    """weight, gate, clipped gate (channels,) -> weight * clipped, weight * (1 - clipped).

    The gradient is that of the gate, clipped or not. Only the clipped gate is kept for it, because the gate itself may
    be clipped again, by another forward pass, before the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gate: Tensor, clipped: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, clipped)
        of_batch = weight * clipped
        return of_batch, weight - of_batch

    @staticmethod
    def backward(ctx: Any, of_batch: Tensor, of_instance: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, clipped = ctx.saved_tensors
        return torch.lerp(of_instance, of_batch, clipped), weight * (of_batch - of_instance), None


@dataclass(frozen=True)
class BatchInstanceNorm(Method):
    """Batch norm and instance norm, mixed by a gate for each channel.

    momentum: the weight of the new value in the running statistics of batch norm.
    gate_lr: the learning rate of the gates as a multiple of the recipe's.
    """

    eps: Positive = 1e-5
    momentum: Positive = 0.1
    gate_lr: Positive = 10.0

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return BatchInstanceNorm2d(channels, self.eps, self.momentum)

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        gates = [layer.gate for layer in model.modules() if isinstance(layer, BatchInstanceNorm2d)]
        known = {id(gate) for gate in gates}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest}, {"params": gates, "lr": lr * self.gate_lr, "weight_decay": 0.0}]
