"""The device that trains, and how to start on it."""

from __future__ import annotations

import os

import torch

from normbench.system.errors import UserError, hint
from normbench.system.memory import keep_freed_memory

KINDS = ("cuda", "mps", "cpu")


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
