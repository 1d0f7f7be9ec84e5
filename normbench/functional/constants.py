"""What layers compute from their parameters alone is computed once in an evaluation, instead of once for each batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_KEPT: dict[nn.Module, dict[Hashable, Any]] = {}  # for each layer that does not change now, its constants


@contextmanager
def unchanging(model: nn.Module, but: Iterable[nn.Module] = ()) -> Iterator[None]:
    """A context in which the parameters and buffers of `model` do not change, as the caller promises.

    Its layers may then keep what they compute from them in evaluation mode. What was kept is dropped at the end.
    but: layers whose own parameters or buffers may change.
    """
    change = set(but)
    new = [layer for layer in model.modules() if layer not in _KEPT and layer not in change]
    _KEPT.update((layer, {}) for layer in new)
    try:
        yield
    finally:
        for layer in new:
            del _KEPT[layer]


def keeps(layer: nn.Module, sources: Iterable[Tensor | None]) -> bool:
    """Whether a layer may keep what it computes from some of its parameters: within `unchanging`, and in evaluation.

    sources: the parameters. While one of them needs a gradient, nothing is kept.
    """
    learns = torch.is_grad_enabled() and any(source is not None and source.requires_grad for source in sources)
    return layer in _KEPT and not layer.training and not learns


def constant(layer: nn.Module, key: Hashable, sources: Iterable[Tensor | None], compute: Callable[[], T]) -> T:
    """The result of `compute()` or, if the layer `keeps` it, that of an earlier call with the same key.

    sources: the parameters that the result depends on.
    """
    if not keeps(layer, sources):
        return compute()
    kept = _KEPT[layer]
    if key not in kept:
        # Not as inference tensors, which a later pass with gradients of the images could not use.
        with torch.inference_mode(False), torch.no_grad():
            kept[key] = compute()
    return kept[key]
