"""Many tensors converted to another dtype at once, which is one launch on a GPU, and so are their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normbench.functional.launches import cast


def converted(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies of tensors of one dtype in another, with their strides.

    Their gradients are converted back together, so none is there before those of all copies are.
    """
    return Conversion.apply(dtype, *tensors) if tensors else ()


class Conversion(torch.autograd.Function):
    """See `converted`. What is not used has no gradient."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `converted`."""
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return tuple(cast(tensors, dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(cast([each for each in gradients if each is not None], ctx.dtype))
        return None, *(None if each is None else next(found) for each in gradients)
