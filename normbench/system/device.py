"""The device that trains, and how to start and to measure on it."""

from __future__ import annotations

import os

import torch
from torch import nn

from normbench.system.errors import UserError, hint
from normbench.system.memory import keep_freed_memory
from normbench.system.schema import MemoryFormat

KINDS = ("cuda", "mps", "cpu")
FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
VECTOR = 16  # float32 numbers in a register of AVX-512


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


def use_threads(count: int, kind: str) -> None:
    """Has operations on a CPU use so many threads. Sums are rounded in another order with another number of them."""
    if kind == "cpu":
        torch.set_num_threads(count)


def has_bfloat16(kind: str) -> bool:
    """Whether a device multiplies numbers of bfloat16 without a detour over others."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = kind == "cpu" and torch.backends.mkldnn.is_available()
    return cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def memory_format(model: nn.Module, kind: str, wanted: MemoryFormat = "channels_last") -> torch.memory_format:
    """The wanted one of `FORMATS`, but contiguous on the CPU for networks that channels_last breaks there.

    oneDNN's weight gradient of a strided 1x1 convolution writes outside its memory on the CPU, with channels_last and
    fewer input channels than a vector register takes (oneDNN issue 6035, in torch 2.15): narrow ResNets have such.
    """
    broken = kind == "cpu" and any(narrow_stride(layer) for layer in model.modules())
    return torch.contiguous_format if broken else FORMATS[wanted]


def memory_format_name(model: nn.Module, kind: str, wanted: MemoryFormat) -> MemoryFormat:
    """What `memory_format` gives, as a key of `FORMATS`."""
    given = memory_format(model, kind, wanted)
    return next(name for name, value in FORMATS.items() if value == given)


def narrow_stride(layer: nn.Module) -> bool:
    """Whether a layer is a strided 1x1 convolution of fewer channels than the widest vector register takes.

    Its parameters are looked at, and not `layer.weight`, which a parametrization computes: spectral norm takes a power
    iteration with it.
    """
    stride, own = getattr(layer, "stride", None), dict(layer.named_parameters())
    weight = own.get("weight", own.get("parametrizations.weight.original"))
    if weight is None or weight.dim() != 4 or not isinstance(stride, tuple):
        return False
    return weight.shape[2:] == (1, 1) and max(stride) > 1 and weight.shape[1] < VECTOR


def placed(model: nn.Module, kind: str, wanted: MemoryFormat = "channels_last") -> nn.Module:
    """A network on its device, in the memory format that it computes in there (see `memory_format`)."""
    return model.to(kind).to(memory_format=memory_format(model, kind, wanted))
