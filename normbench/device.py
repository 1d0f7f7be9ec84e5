"""The device that trains, and how to start and to measure on it."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normbench.errors import UserError, hint
from normbench.functional import convolution

KINDS = ("cuda", "mps", "cpu")
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose() -> str:
    """`cuda`, `mps` or `cpu`: the first that is there, or what the environment variable NORMBENCH_DEVICE names."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = os.environ.get("NORMBENCH_DEVICE", "auto")
    if wanted == "auto":
        return next(kind for kind in KINDS if there[kind])
    if wanted not in there:
        raise UserError(f"NORMBENCH_DEVICE = {wanted!r}: unknown device; {hint(wanted, ['auto', *KINDS])}")
    if not there[wanted]:
        available = ", ".join(kind for kind in KINDS if there[kind])
        raise UserError(f"NORMBENCH_DEVICE = {wanted!r}: not on this machine, which has {available}")
    return wanted


def prepare(kind: str) -> None:
    """Deterministic kernels on the CPU, fast ones on a GPU."""
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    else:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Kernels that leave memory unset are not ours to find, and filling it costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a class property
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Has glibc's allocator keep what is freed: activations are large, and each fresh page costs a page fault.

    By default such blocks go back to the system at once. Other allocators are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass(frozen=True)
class Numerics:
    """precision: `float32`, or `bfloat16` by autocast. memory_format: `channels_last` or `contiguous`. step_seconds: of
    a training step in each candidate, where the choice was measured."""

    precision: str
    memory_format: str
    step_seconds: dict[str, float] | None = None

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"


def has_bfloat16(kind: str) -> bool:
    """Whether a device multiplies numbers of bfloat16 without a detour over others."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = kind == "cpu" and torch.backends.mkldnn.is_available()
    return cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def by_rule(recipe: dict[str, Any], kind: str) -> Numerics:
    """What a recipe leaves open without a measurement: bfloat16 on a GPU of NVIDIA's that has it, and channels_last."""
    precision, memory_format = recipe["precision"], recipe["memory_format"]
    if precision == "auto":
        precision = "bfloat16" if kind == "cuda" and has_bfloat16(kind) else "float32"
    return Numerics(precision, "channels_last" if memory_format == "auto" else memory_format)


def memory_format(model: nn.Module, kind: str, wanted: str = "channels_last") -> torch.memory_format:
    """The wanted one of `FORMATS`, but contiguous on the CPU for networks that channels_last breaks there.

    Those are networks with narrow strided 1x1 convolutions that are not computed by normbench.functional.convolution,
    which says what happens to them.
    """
    broken = kind == "cpu" and any(narrow_stride(layer) for layer in model.modules())
    return torch.contiguous_format if broken else FORMATS[wanted]


def memory_format_name(model: nn.Module, kind: str, wanted: str) -> str:
    """What `memory_format` gives, as a key of `FORMATS`."""
    given = memory_format(model, kind, wanted)
    return next(name for name, value in FORMATS.items() if value == given)


def narrow_stride(layer: nn.Module) -> bool:
    """Whether a layer is a strided 1x1 convolution of few channels, and none of ours, which have no need of care.

    Its parameters are looked at, and not `layer.weight`, which a parametrization computes: spectral norm takes a power
    iteration with it.
    """
    stride, own = getattr(layer, "stride", None), dict(layer.named_parameters())
    weight = own.get("weight", own.get("parametrizations.weight.original"))
    if getattr(layer, "takes_pixels_first", False) or weight is None or weight.dim() != 4:
        return False
    return isinstance(stride, tuple) and convolution.narrow_stride(weight, stride)


def placed(model: nn.Module, kind: str, wanted: str = "channels_last") -> nn.Module:
    """A network on its device, in the memory format that it computes in there (see `memory_format`)."""
    model = model.to(kind).to(memory_format=memory_format(model, kind, wanted))
    for layer in model.modules() if kind == "cpu" else ():
        if narrow_stride(layer):
            keep_contiguous(layer)
    return model


def keep_contiguous(layer: nn.Module) -> None:
    """Gives the weight of a layer, and all that it is called with from now on, strides that pass for no other format.

    Without it a layer in a contiguous network is still broken by a weight from a network that was in channels_last
    before, or by images from a layer that works on their last dimension and turns them back.
    """
    for parameter in layer.parameters(recurse=True):
        parameter.data = restrided(parameter.data)
    if not any(hook is contiguous_inputs for hook in layer._forward_pre_hooks.values()):
        layer.register_forward_pre_hook(contiguous_inputs)


def contiguous_inputs(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(restrided(each) if isinstance(each, torch.Tensor) else each for each in inputs)


def restrided(x: torch.Tensor) -> torch.Tensor:
    """x with the strides of a new contiguous tensor, copied if it has others (`contiguous` takes many for the same)."""
    strides = torch.empty(x.shape, device="meta").stride()
    return x if x.stride() == strides else x.clone(memory_format=torch.contiguous_format)


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
