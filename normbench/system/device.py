"""The device that trains: how it is chosen and how torch is set up for it."""

from __future__ import annotations

import os

import torch

from normbench.system.errors import UserError, hint
from normbench.system.memory import keep_freed_memory

KINDS = ("cuda", "mps", "cpu")


def choose() -> str:
    """Returns the kind of the device: `cuda`, `mps` or `cpu`.

    It is the first of these that is available, unless the environment variable NORMBENCH_DEVICE names one. Raises
    UserError if NORMBENCH_DEVICE names an unknown or unavailable device.
    """
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
    """Sets up torch: deterministic kernels on the CPU and on MPS, the fastest kernels (with TF32) on CUDA.

    On the CPU and on MPS it also tells the allocator to keep freed memory (see `memory.keep_freed_memory`).
    """
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    else:
        # As `use_deterministic_algorithms` does, without the seconds that its import of the compiler takes.
        torch.set_deterministic_debug_mode("warn")
        # Filling uninitialized memory only helps to find faulty kernels, and it costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a class property
        keep_freed_memory()


def preload() -> None:
    """Imports what torch's optimizers import when they are made, so that processes forked afterwards have it.

    It takes more than a second of each process that imports it by itself.
    """
    import torch._dynamo  # noqa: F401


def use_threads(count: int, kind: str) -> None:
    """Sets the number of threads of CPU operations in this process; does nothing for other kinds of device.

    The number of threads decides the order in which sums are rounded, so it changes the last digits of results.
    """
    if kind == "cpu":
        torch.set_num_threads(count)


def has_bfloat16(kind: str) -> bool:
    """Whether a kind of device computes in bfloat16 natively, without emulation by float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = kind == "cpu" and torch.backends.mkldnn.is_available()
    return cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()
