"""Bounds on the curvature of networks with differentiable activations, Singla and Feizi, ICML 2020, arXiv 2006.00731.

A network of affine layers z_k = W_k a_(k-1) + b_k and activations a_k = s(z_k) has an output f = d . a_K, where d is
for example the difference of two rows of the last layer. Its Hessian in the input a_0 is (section 4 of the paper)

    H = sum over layers k of  B_k^T diag(s''(z_k) * F_k) B_k,    B_k = dz_k/da_0,    F_k = df/da_k.

||B_k|| is at most the product of the norms of W_1..W_k and of the slopes between them. F_k is bounded entry by entry,
from the last layer to the first: F_K = d, and F_(k-1) = W_k^T (s'(z_k) * F_k) with 0 <= s' <= g. So any number of
layers is bounded in one sweep, and H is between -m and M times the identity. Differentiable in all weights and norms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from normbench.spectral.certificates import conv_bound
from normbench.spectral.kernels import by_group, largest_singular_value


@dataclass(frozen=True)
class Derivatives:
    """Ranges of the derivatives of an activation: the first lies in 0..slope, the second in lowest..highest."""

    slope: float
    lowest: float
    highest: float


SIGMOID, TANH = math.sqrt(3) / 18, 4 * math.sqrt(3) / 9  # the largest second derivatives


def derivatives_of(activation: nn.Module) -> Derivatives | None:
    """The derivatives of a softplus, sigmoid or tanh; None for any other activation, such as ReLU, which has kinks."""
    match activation:
        case nn.Softplus():
            return Derivatives(1.0, 0.0, activation.beta / 4)
        case nn.Sigmoid():
            return Derivatives(0.25, -SIGMOID, SIGMOID)
        case nn.Tanh():
            return Derivatives(1.0, -TANH, TANH)
        case _:
            return None


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its images. size: (H, W) of its input. padding: zeros at both sides."""

    size: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class CurvedLayer:
    """An affine layer and the activation that follows it.

    weight: (out, in), or (out, in/groups, kh, kw) of a convolution, which has a `window`. norm: an upper bound, 0-d, on
    the spectral norm of the layer, such as that of `norm_of`; with a lower estimate nothing below is a bound.
    """

    weight: Tensor
    norm: Tensor
    activation: Derivatives
    window: Window | None = None

    def back(self, weight: Tensor, given: Tensor) -> Tensor:
        """The transposed layer, with this weight in the place of its own: (N, outputs) to (N, inputs), flat."""
        if self.window is None:
            return given @ weight
        (height, width), stride, groups = self.window.size, self.window.stride, self.window.groups
        down, across = (
            (side + 2 * pad - taps) // stride + 1
            for side, pad, taps in zip((height, width), self.window.padding, weight.shape[2:], strict=True)
        )
        maps = given.reshape(-1, weight.shape[0], down, across)
        shape = (len(maps), weight.shape[1] * groups, height, width)
        return conv2d_input(shape, weight, maps, stride, self.window.padding, groups=groups).flatten(1)


def norm_of(weight: Tensor, window: Window | None = None) -> Tensor:
    """Converged upper bound, 0-d, on the spectral norm of a linear layer (out, in), or of a convolution.

    A linear layer has its largest singular value, a convolution the least bound of `conv_bound`. Differentiable.
    """
    if window is None:
        return largest_singular_value(by_group(weight, 1)[0, :, :, 0, 0]).to(weight)
    return conv_bound(weight, window.stride, groups=window.groups)


def hessian_bounds(layers: Sequence[CurvedLayer], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers m and M (N,), at least 0, so that -m I <= H <= M I for the Hessian H of each output in the input.

    layers: from the first to the last hidden one. outputs: (N, features), weights on the features of the last hidden
    layer, flat; for z_y - z_t the row y of the last layer minus its row t. Holds at every input. With one layer and a
    symmetric activation both are h ||W_1||^2 max |outputs|, h the largest second derivative. Raises ValueError without
    a layer.
    """
    if not layers:
        raise ValueError("a network without hidden layers is affine: its Hessian is zero")
    reach = [layers[0].norm]  # upper bounds on ||B_k||
    for before, layer in itertools.pairwise(layers):
        reach.append(reach[-1] * before.activation.slope * layer.norm)
    lower = upper = outputs
    least = most = outputs.new_zeros(len(outputs))
    for depth in reversed(range(len(layers))):
        layer, known = layers[depth], layers[depth].activation
        corners = torch.stack([end * second for end in (lower, upper) for second in (known.lowest, known.highest)])
        square = reach[depth].to(outputs).square()
        most = most + square * corners.amax((0, 2)).clamp_min(0)
        least = least + square * (-corners).amax((0, 2)).clamp_min(0)
        if depth:
            # The slope is anything in 0..g, so that a range reaches to 0 if it does not contain it.
            falling, rising = known.slope * lower.clamp_max(0), known.slope * upper.clamp_min(0)
            positive, negative = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
            lower = layer.back(positive, falling) + layer.back(negative, rising)
            upper = layer.back(positive, rising) + layer.back(negative, falling)
    return least, most
