"""Filter Response Normalization with Thresholded Linear Units, Singh and Krishnan, CVPR 2020, arXiv 1911.09737.

The norm divides each map by the root of its mean square, without a mean; the activation is the maximum of the result
and a learned threshold, in the place of every ReLU of the main path. Neither depends on other images, nor on whether
the network is trained.

The paper has pre-activation residual networks, where no activation follows an addition. In others the ReLU after an
addition becomes a thresholded linear unit too, and the last norm of a branch has none of its own, as in
ppwwyyxx/FRN-on-common-ImageNet-baseline at aad56178. eps and the start of the parameters are those of
gupta-abhay/pytorch-frn at cc86a984; timm has an eps of 1e-5, and squares images in their own precision, which overflows
in float16 from 256 on.

A map of one pixel becomes little more than its sign. The paper is reported to learn eps for such maps (`learned_eps`),
and to raise the learning rate slowly at the beginning. Neither was checked against its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.functional.wide import Wide
from normbench.methods.base import Method, Positive, Role


class FilterResponseNorm2d(Wide):
    """weight * x / sqrt(mean of x^2 over the pixels + |eps|) + bias: (N, channels, H, W) to the same shape.

    Parameters: weight, bias (channels,) and, if it is learned, eps (channels,), which starts at the given one.
    """

    def __init__(self, channels: int, eps: float, learned_eps: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = nn.Parameter(torch.full((channels,), eps)) if learned_eps else eps

    def wide(self, x: Tensor) -> Tensor:
        eps = self.eps.view(-1, 1, 1).abs() if isinstance(self.eps, Tensor) else self.eps
        return FilterResponse.apply(x, self.weight.view(-1, 1, 1), self.bias.view(-1, 1, 1), eps)


class FilterResponse(torch.autograd.Function):
    """The formula of `FilterResponseNorm2d`; weight, bias: (C, 1, 1). eps: a positive number or tensor (C, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor | float) -> Tensor:
        inverse = (x.square().mean((2, 3), keepdim=True) + eps).rsqrt()
        gain = inverse * weight
        ctx.save_for_backward(x, inverse, gain)
        return torch.addcmul(bias, x, gain)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, gain = ctx.saved_tensors
        of_weight = (gradient * x).sum((2, 3), keepdim=True) * inverse  # of each map
        along = of_weight * inverse
        of_x = torch.addcmul(gradient, x, along, value=-1 / (x.shape[2] * x.shape[3])) * gain
        of_eps = (along * gain).sum(0) * -0.5 if ctx.needs_input_grad[3] else None
        return of_x, of_weight.sum(0), gradient.sum((0, 2, 3))[:, None, None], of_eps


class ThresholdedLinearUnit(nn.Module):
    """The maximum of images (N, channels, H, W) and a learned threshold (channels,), which starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return Maximum.apply(x, self.threshold.view(-1, 1, 1))


class Maximum(torch.autograd.Function):
    """The larger of x (N, C, H, W) and a threshold (C, 1, 1), in the dtype of x.

    Where both are equal, the gradient is that of the threshold, as in a ReLU; `torch.maximum` would split it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor) -> Tensor:
        rounded, ctx.dtype = threshold.to(x.dtype), threshold.dtype
        ctx.save_for_backward(x, rounded)
        return torch.maximum(x, rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, rounded = ctx.saved_tensors
        of_x = gradient * (x > rounded)  # unlike `masked_fill`, this keeps the memory format
        return of_x, (gradient - of_x).sum((0, 2, 3), dtype=ctx.dtype)[:, None, None]


@dataclass(frozen=True)
class FilterResponseNorm(Method):
    """Each map divided by the root of its mean square, and thresholded linear units as activations.

    learned_eps: whether each channel learns its eps, from the given one on.
    """

    eps: Positive = 1e-6
    learned_eps: bool = False

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return FilterResponseNorm2d(channels, self.eps, self.learned_eps)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return ThresholdedLinearUnit(channels) if role.activation else super().activation(channels, role=role)
