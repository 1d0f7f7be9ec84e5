"""Tensors that depend on sizes alone, such as an identity matrix, are made once and not in every step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST = 256  # tables that are kept; one for each size, dtype and device in use

Make = Callable[..., Tensor]


def table(make: Make, *sizes: int, like: Tensor) -> Tensor:
    """The result of `make(*sizes, dtype, device)` with the dtype and the device of `like`; it must not be changed.

    While torch.compile traces, it is made anew, as a part of the graph.
    """
    if torch.compiler.is_compiling():
        return make(*sizes, like.dtype, like.device)
    # Fake tensors, with which torch traces a network, belong to their mode, and must not meet those of another one.
    return kept(make, sizes, like.dtype, like.device, getattr(like, "fake_mode", None))


@functools.lru_cache(maxsize=MOST)
def kept(make: Make, sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device, _: Any) -> Tensor:
    """See `table`."""
    # Not as an inference tensor, which a later training step could not use.
    with torch.inference_mode(False), torch.no_grad():
        return make(*sizes, dtype, device)


def identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The identity matrix, (size, size)."""
    return torch.eye(size, dtype=dtype, device=device)
