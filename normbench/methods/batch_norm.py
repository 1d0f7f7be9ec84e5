"""Batch Normalization, Ioffe and Szegedy, arXiv 1502.03167, as `torch.nn.BatchNorm2d`.

Its options make the variants that have names of their own:

- Ghost batch normalization, Hoffer, Hubara and Soudry, NeurIPS 2017, arXiv 1705.08741: `ghost_batch`. A batch is
  normalized in parts, each with its own statistics, as if it were small. Deviation: the running statistics move once
  for each batch, towards the mean of those of its parts. In the paper they move once for each part, so that the same
  momentum reaches less far back.
- Frozen batch norm: `freeze_after`. From then on a layer normalizes with its running statistics in training too, and
  these, its weight and its bias do not change any more.
- A cumulative average, `momentum: null`: the running statistics are the mean over all training steps, as with torch's
  `momentum=None`, for which torch makes the host wait for a GPU in every step. In a short training it lags behind the
  weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.running import track
from normbench.methods.base import START, Count, Method, Moment, Positive, Role

FROZEN = 0.0  # the momentum of a layer that is frozen


class VariedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that can normalize parts of a batch, average over all steps, and be frozen.

    momentum: weight of the new value in the running statistics, None for the mean over all training steps, or 0 for a
    layer that is frozen. ghost_batch: the most images of a part, or None for the whole batch; the parts have equally
    many images, but for one. The state has an extra entry, whether the layer is frozen.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float, momentum: float | None, ghost_batch: int | None):
        super().__init__(channels, eps, momentum)
        self.ghost_batch, self.initial_momentum = ghost_batch, momentum

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if self.momentum == FROZEN:
            affine = self.weight.detach(), self.bias.detach()
            return functional.batch_norm(x, self.running_mean, self.running_var, *affine, eps=self.eps)
        if self.ghost_batch is None and self.momentum is not None:
            return super().forward(x)
        parts = self.parts(x)
        # With a momentum of 1, running statistics become those of the batch.
        new = self.running_mean.new_zeros(2, len(parts), self.num_features)
        affine = self.weight, self.bias
        y = [
            functional.batch_norm(part, mean, variance, *affine, True, 1.0, self.eps)
            for part, mean, variance in zip(parts, *new, strict=True)
        ]
        self.num_batches_tracked.add_(1)
        running, new = (self.running_mean, self.running_var), new.mean(1)
        if self.momentum is not None:
            track(running, new.unbind(), self.momentum)
        else:
            share = self.num_batches_tracked.to(new.dtype).reciprocal()  # not a number, for which a GPU would be waited
            for own, value in zip(running, new, strict=True):
                own.lerp_(value, share)
        return torch.cat(y)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """A batch (N, channels, H, W) in as few parts of at most `ghost_batch` images as there can be."""
        if self.ghost_batch is None:
            return (x,)
        count = math.ceil(len(x) / self.ghost_batch)
        size, larger = divmod(len(x), count)
        return x.split([size + (number < larger) for number in range(count)])

    def freeze(self) -> None:
        """Ends the training of the layer: statistics, weight and bias stay."""
        self.momentum = FROZEN

    def get_extra_state(self) -> dict[str, bool]:
        return {"frozen": self.momentum == FROZEN}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        self.momentum = FROZEN if state["frozen"] else self.initial_momentum


@dataclass(frozen=True)
class BatchNorm(Method):
    """Statistics over (N, H, W). The variance is biased in the forward pass and unbiased in the running statistics.

    momentum: the weight of the new value in the running statistics; null for the mean over all steps.
    ghost_batch: the most images that have statistics together, 16 to 64 in the paper; null for the whole batch.
    freeze_after: the epochs or steps after which the norms are frozen; null for never. It cannot be the start, because
    the running statistics would be a mean of 0 and a variance of 1, and nothing would be normalized.
    freeze_unit: what `freeze_after` counts. After a number of epochs, the first step of the next one still trains.
    """

    eps: Positive = 1e-5
    momentum: Positive | None = 0.1
    ghost_batch: Count | None = None
    freeze_after: Count | None = None
    freeze_unit: Literal["epochs", "steps"] = "epochs"

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        if self.momentum is not None and self.ghost_batch is None and self.freeze_after is None:
            return nn.BatchNorm2d(channels, self.eps, self.momentum)
        return VariedBatchNorm2d(channels, self.eps, self.momentum, self.ghost_batch)

    def penalty(self, model: nn.Module, moment: Moment = START) -> None:
        """Freezes the norms when it is time. It is called in every step, after the forward pass."""
        if self.freeze_after is None:
            return
        done = moment.step + 1 if self.freeze_unit == "steps" else moment.epoch
        if done >= self.freeze_after:
            for layer in model.modules():
                if isinstance(layer, VariedBatchNorm2d):
                    layer.freeze()
