"""What tests of normalization layers share: images whose statistics matter, and the comparison with a formula."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.support.layer_cases import agree


def images(count: int = 5, channels: int = 8, size: tuple[int, int] = (3, 4), seed: int = 0) -> Tensor:
    """Random images in float64, with another mean and another deviation in every map."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    maps = (count, channels, 1, 1)
    return normal(count, channels, *size) * (0.5 + normal(*maps).abs()) + 2 * normal(*maps)


def ready(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer in float64, with parameters that are neither zero nor equal, so that mixed-up ones show."""
    generator = torch.Generator().manual_seed(seed)
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def step(function: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """The output of a function for images, and the gradients of the images and of parameters for a random cotangent."""
    x = x.detach().clone().requires_grad_()
    y = function(x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y)
    return (y.detach(), *torch.autograd.grad(y, [x, *parameters], cotangent, materialize_grads=True))


def follows(
    layer: nn.Module, formula: Callable[[nn.Module, Tensor], Tensor], x: Tensor, tolerance: float = 1e-10
) -> bool:
    """Whether a layer gives the output of a formula and the gradients that autograd finds for it.

    formula: of a copy of the layer, from which it takes parameters and buffers as they are before the step, and images.
    """
    before = copy.deepcopy(layer)
    expected = step(lambda given: formula(before, given), x, list(before.parameters()))
    return agree(step(layer, x, list(layer.parameters())), expected, tolerance)


def by_map(x: Tensor, function: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """Images put together from what a function makes of each map: of (H, W), the image's number and the channel's."""
    return torch.stack([torch.stack([function(x[n, c], n, c) for c in range(x.shape[1])]) for n in range(x.shape[0])])
