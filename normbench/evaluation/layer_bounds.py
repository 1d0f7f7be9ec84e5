"""Every bound of `normbench.spectral` on each convolution of a trained network, to see which is tightest where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normbench.evaluation.folding import fold
from normbench.evaluation.lipschitz import sizes_in
from normbench.functional.graph import computes_as
from normbench.spectral import (
    bounds,
    conv_bound,
    exact_norm,
    fantastic_four,
    gram_bound,
    grid_bound,
    norm_of,
    polyphase,
    zero_padded_norm,
)

POINTS = 16  # of the grid in `grid_bound`; more for kernels of more than 8 taps


@torch.no_grad()
def layer_bounds(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """The norms of the plain zero-padded convolutions and linear layers of a network after folding, in order.

    A dilated convolution is not among the plain ones.

    x: one normalized image (1, C, H, W), which gives the sizes. All bounds of a strided convolution are those of its
    polyphase kernel. Entries:

    - `name`, and `kernel`, such as `3x3`, `3x3 / 2` with the stride, or `linear`.
    - `r`, `s`, `t`, `u`, the four bounds, each the largest over the groups; `fantastic_four`, their least one, group by
      group; `grid`, by frequencies and Riesz; `certificate`, what Lipschitz bounds take (`conv_bound`). These hold for
      zero and circular padding.
    - `gram`, by Gram iteration, and `circular`, the exact norm: for circular padding at the layer's size alone.
    - `zero_padded`, the norm with zero padding at the layer's size by power iteration, which approaches it from below.

    A linear layer has the exact norm as `certificate`, and None for the others. A layer whose weights are not finite is
    left out; a network that cannot be folded has none.
    """
    try:
        folded = fold(model)
        sizes, _ = sizes_in(folded, x)
    except Exception:  # The layers may be anybody's; `bounds` of `normbench.evaluation.lipschitz` says what it was.
        return []
    found = []
    for name, layer in folded.named_modules():
        if not all(weight.isfinite().all() for weight in layer.parameters(recurse=False)):
            continue
        if isinstance(layer, nn.Linear) and computes_as(layer, nn.Linear):
            norms = dict.fromkeys(NAMES) | {"certificate": float(norm_of(layer.weight.double()))}
            found.append({"name": name, "kernel": "linear"} | norms)
        elif name in sizes and isinstance(layer, nn.Conv2d) and is_plain(layer):
            found.append({"name": name, "kernel": kernel_of(layer)} | of_convolution(layer, sizes[name][2:4]))
    return found


NAMES = ("r", "s", "t", "u", "fantastic_four", "grid", "certificate", "gram", "circular", "zero_padded")


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution has zero padding in numbers, one stride and no dilation."""
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return computes_as(layer, nn.Conv2d) and zeros and len(set(layer.stride)) == 1 and set(layer.dilation) == {1}


def kernel_of(layer: nn.Conv2d) -> str:
    """The size of the kernel in words, with the stride if that is not 1."""
    stride = f" / {layer.stride[0]}" if layer.stride[0] > 1 else ""
    return "x".join(map(str, layer.kernel_size)) + stride


def of_convolution(layer: nn.Conv2d, size: tuple[int, ...]) -> dict[str, float]:
    """The entries of a convolution, see `layer_bounds`. size: height and width of its input."""
    weight, stride, groups = layer.weight.double(), layer.stride[0], layer.groups
    kernel = polyphase(weight, stride)
    height, width = (-(-side // stride) for side in size)
    points = max(POINTS, 2 * max(kernel.shape[2:]))
    norms = [
        *bounds(kernel, groups=groups),
        fantastic_four(kernel, groups=groups),
        grid_bound(kernel, points, groups=groups),
        conv_bound(weight, stride, groups=groups),
        gram_bound(kernel, (height, width), groups=groups),
        exact_norm(kernel, (height, width), groups=groups),
        zero_padded_norm(
            weight, (size[0], size[1]), stride, (int(layer.padding[0]), int(layer.padding[1])), groups=groups
        ),
    ]
    return dict(zip(NAMES, map(float, norms), strict=True))
