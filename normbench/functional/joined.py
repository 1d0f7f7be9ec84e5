"""Batch statistics over a batch that several processes share.

Within `joining`, the layers that can do so take their statistics over the images of all processes. They need sums over
the processes in the forward pass and in the backward pass, so all processes must run the same layers in the same order.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Joined:
    """The place of a process's images in a batch that several processes share.

    first: the number of images of the batch that are before those of this process. count: of those here. total: of all.
    processes: how many there are.
    """

    first: int
    count: int
    total: int
    processes: int

    def share(self, rows: int) -> tuple[int, int]:
        """The number of rows before those of a tensor here, and of all, where an image has the same number of rows."""
        of_image = rows // self.count
        return self.first * of_image, self.total * of_image


_now: Joined | None = None


def joined() -> Joined | None:
    """The batch over which statistics are taken now; None if a process has statistics of its own."""
    return _now


@contextmanager
def joining(batch: Joined | None) -> Iterator[None]:
    """A context in which layers take their statistics over a shared batch; with None it changes nothing."""
    global _now
    before, _now = _now, batch
    try:
        yield
    finally:
        _now = before


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes, in place and without a gradient."""
    distributed.all_reduce(x)
    return x


class JoinedBatchNorm(torch.autograd.Function):
    """Batch normalization of images by the statistics of a shared batch (Ioffe and Szegedy, arXiv 1502.03167).

    torch has this for GPUs alone. The sums of squares are of values without their mean, so that nothing cancels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, count: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C, ...), weight, bias (C,) -> the normalized x in its dtype; mean and biased variance (C,), float32.

        count: the number of values of a channel in the shared batch.
        """
        axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = total(wide.sum(axes) / count)
        centred = wide - mean.view(shape)
        variance = total(centred.square().sum(axes) / count)
        scale = (variance + eps).rsqrt()
        white = centred * scale.view(shape)
        ctx.save_for_backward(white, scale, weight)
        ctx.axes, ctx.shape, ctx.count = axes, shape, count
        ctx.mark_non_differentiable(mean, variance)
        y = white if weight is None or bias is None else torch.addcmul(bias.view(shape), white, weight.view(shape))
        return y.to(x.dtype), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_y: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        white, scale, weight = ctx.saved_tensors
        wide = of_y.to(white.dtype)
        of_bias, of_weight = wide.sum(ctx.axes), (wide * white).sum(ctx.axes)
        along = total(torch.stack([of_bias, of_weight]) / ctx.count).view(2, *ctx.shape)
        factor = scale if weight is None else scale * weight
        of_x = (wide - along[0] - white * along[1]) * factor.view(ctx.shape)
        affine = (None, None) if weight is None else (of_weight.to(weight), of_bias.to(weight))
        return of_x.to(of_y.dtype), *affine, None, None


def batch_norm(layer: Any, x: Tensor) -> Tensor:
    """The forward pass of a `torch.nn.BatchNorm2d` that takes part in a shared batch; its own one outside of it."""
    batch = joined()
    if batch is None or not layer.training or layer.momentum is None or not layer.track_running_stats:
        return type(layer).forward(layer, x)
    count = x.numel() / x.shape[1] / batch.count * batch.total
    y, mean, variance = JoinedBatchNorm.apply(x, layer.weight, layer.bias, layer.eps, count)
    with torch.no_grad():
        layer.num_batches_tracked.add_(1)
        layer.running_mean.lerp_(mean.to(layer.running_mean), layer.momentum)
        layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var), layer.momentum)
    return y


@contextmanager
def taking_part(model: nn.Module) -> Iterator[None]:
    """A context in which the batch norms of a network, torch's own class, take part in shared batches."""
    layers: list[Any] = [layer for layer in model.modules() if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d)]
    for layer in layers:
        layer.forward = types.MethodType(batch_norm, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
