"""What saves launches of kernels on a GPU: results in a place that is given, and casts of several tensors at once.

A launch takes a GPU's host a few microseconds, in which a CPU computes what it is asked for. So there are layers that
compute in a few large operations on a GPU what takes less time in more and smaller ones on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def count(x: Tensor) -> bool:
    """Whether launches take time on the device of a tensor, as they do on all but a CPU."""
    return x.device.type != "cpu"


def write(out: Tensor, operation: Callable[..., Tensor], *arguments: Tensor | float, **options: float) -> None:
    """Writes the result of an operation of torch to `out`, rounded to its dtype."""
    if torch.compiler.is_compiling():
        out.copy_(operation(*arguments, **options))
    else:
        operation(*arguments, **options, out=out)


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in a dtype, with the strides that they have. One that has the dtype already is returned itself."""
    found = [value if value.dtype == dtype else torch.empty_like(value, dtype=dtype) for value in tensors]
    pairs = [(new, old) for new, old in zip(found, tensors, strict=True) if new is not old]
    if pairs:
        torch._foreach_copy_([new for new, _ in pairs], [old for _, old in pairs])
    return found
