"""The memory that a training step takes, and settings of the CPU's allocator."""

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

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep freed blocks instead of returning them to the operating system.

    Activations are large blocks, which glibc returns at once by default; each new block then costs page faults. Other
    allocators, and other systems than Linux, are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class LiveBytes(TorchDispatchMode):
    """A context that measures in `peak` the largest total size, in bytes, of tensors that were alive together.

    Only tensors that operations create inside the context are counted. `live` is the size of those that are alive now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[weakref.ref] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:  # not a view
                self.track(tensor.untyped_storage())
        return result

    def track(self, storage: torch.UntypedStorage) -> None:
        """Counts the bytes of a storage until it is freed. A storage that is counted already is not counted again."""
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
    """Returns the total size of the elements of tensors, in bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)


def step_memory(model: nn.Module, step: Callable[[], None], kind: str) -> int:
    """Returns the peak memory of a training step in bytes.

    It is the sum of the parameters, their momentum, the buffers, and the most that the step holds besides these. model:
    the network. step: runs one training step; it is called once before the measurement, so that the optimizer has its
    state. kind: of the device. On CUDA the allocator reports the peak; elsewhere every tensor that an operation creates
    is followed, which misses the memory that a kernel uses internally.
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
