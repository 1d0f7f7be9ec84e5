"""What layers compute from their parameters alone is computed once in an evaluation, instead of once for each batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_KEPT: dict[nn.Module, dict[Hashable, Any]] = {}  # for each layer that does not change now, its constants


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """A context in which the parameters and buffers of `model` do not change, as the caller promises.

    Its layers may then keep what they compute from them in evaluation mode. What was kept is dropped at the end.
    """
    new = [layer for layer in model.modules() if layer not in _KEPT]
    _KEPT.update((layer, {}) for layer in new)
    try:
        yield
    finally:
        for layer in new:
            del _KEPT[layer]


def constant(layer: nn.Module, key: Hashable, sources: tuple[Tensor | None, ...], compute: Callable[[], T]) -> T:
    """The result of `compute()` or, within `unchanging`, that of an earlier call for this layer and key.

    sources: the parameters that the result depends on. It is computed anew in training mode, and while one of them
    needs a gradient.
    """
    kept = _KEPT.get(layer)
    learns = torch.is_grad_enabled() and any(source is not None and source.requires_grad for source in sources)
    if kept is None or layer.training or learns:
        return compute()
    if key not in kept:
        # Not as inference tensors, which a later pass with gradients of the images could not use.
        with torch.inference_mode(False), torch.no_grad():
            kept[key] = compute()
    return kept[key]
