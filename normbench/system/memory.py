"""The memory that a training step takes, and how the allocator of the CPU keeps it."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Has glibc's allocator keep what is freed: activations are large, and each fresh page costs a page fault.

    By default such blocks go back to the system at once. Other allocators are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class LiveBytes(TorchDispatchMode):
    """Inside it, `peak` is the largest sum of bytes of tensors that operations made and that were alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[weakref.ref] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:  # else a view of it
                self.track(tensor.untyped_storage())
        return result

    def track(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def released(reference: weakref.ref) -> None:
            self.seen.discard(reference)
            self.live -= size

        reference = weakref.ref(storage, released)
        if reference not in self.seen:
            self.seen.add(reference)
            self.live += size
            self.peak = max(self.peak, self.live)


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def step_memory(model: nn.Module, step: Callable[[], None], kind: str) -> int:
    """Peak bytes of a training step: parameters, their momentum, buffers, and at most what the step holds beside them.

    On CUDA from the allocator, elsewhere by following every tensor that the step makes (what a kernel holds inside
    itself is not seen there). `step` runs once unmeasured first, so that the optimizer has its state.
    """
    step()
    persistent = 2 * tensor_bytes(model.parameters()) + tensor_bytes(model.buffers())
    if kind == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return persistent + torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        step()
    return persistent + live.peak
