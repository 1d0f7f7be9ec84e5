"""Weights as matrices, those of one shape together: for penalties on all layers of a network.

A GPU takes as long to start a product as to compute it for one layer of a small network. So layers whose weights have
one shape share each product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normbench.functional.products import addmm
from normbench.functional.tables import identity, table


def all_weights(model: nn.Module) -> list[Tensor]:
    """Stacks of all parameters of a network that are kernels or matrices (see `stacked`), one for each shape."""
    alike: dict[tuple[torch.Size, int], list[Tensor]] = defaultdict(list)
    for module in model.modules():
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        for parameter in module.parameters(recurse=False):
            if parameter.dim() in (2, 4):
                alike[parameter.shape, groups].append(parameter)
    return [stacked(some, groups) for (_, groups), some in alike.items()]


def stacked(alike: Sequence[Tensor], groups: int) -> Tensor:
    """The kernels of weights with one shape and number of groups, (layers * groups, out/groups, kh, kw, in/groups).

    A matrix counts as a 1x1 kernel. A grouped convolution is one of its own for each group, since its groups have no
    channel in common. The order is that of weights in channels_last, so that their gradients have their strides.
    """
    kernels = [weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight[:, None, None] for weight in alike]
    return torch.cat(kernels).unflatten(0, (len(alike) * groups, -1))


def from_orthogonal(stack: Tensor) -> Tensor:
    """G - I of the matrices M (out, all the rest) of a stack, (layers * groups, n, n), in true float32.

    G: M M^T or M^T M, whichever is smaller.
    """
    matrices = stack.flatten(2)
    _, rows, columns = matrices.shape
    one, other = (matrices, matrices.mT) if rows <= columns else (matrices.mT, matrices)
    return addmm(table(identity, min(rows, columns), like=stack), one, other, beta=-1)
