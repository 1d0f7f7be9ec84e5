"""The device that trains: how it is chosen and how torch is set up for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from normbench.system.errors import UserError, hint
from normbench.system.memory import keep_freed_memory

KINDS = ("cuda", "mps", "cpu")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # which cuBLAS reads once; `normbench.system.threads` sets it
# torch's new switches of the precision of float32 operations, by backend and operation.
SWITCHES = [("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv")]
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same bits, by its manual


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


def prepare(kind: str, precision: str = "float32", deterministic: bool = False) -> None:
    """Sets up torch for a run with this precision, whatever was set before. To be called again before another run.

    Products and convolutions of float32 tensors round nothing, except to TF32 on CUDA if that is the precision.
    Kernels are deterministic on the CPU and on MPS. On CUDA they are the fastest that cuDNN finds by trying, or, with
    `deterministic`, such that give the same bits every time; an operation that has none raises RuntimeError. On the CPU
    and on MPS this also tells the allocator to keep freed memory (see `memory.keep_freed_memory`).

    Raises UserError if the environment was set up for another kind of cuBLAS than `deterministic` needs.
    """
    set_rounding(kind == "cuda" and precision == "tf32")
    if kind == "cuda":
        if deterministic and os.environ.get(WORKSPACE) not in DETERMINISTIC_WORKSPACES:
            allowed = " or ".join(DETERMINISTIC_WORKSPACES)
            raise UserError(f"recipe.deterministic: on a GPU {WORKSPACE} must be {allowed} in the environment")
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        # Filling uninitialized memory would be one more kernel for each new tensor, and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a class property
    else:
        # As `use_deterministic_algorithms` does, without the seconds that its import of the compiler takes.
        torch.set_deterministic_debug_mode("warn")
        # Filling uninitialized memory only helps to find faulty kernels, and it costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a class property
        keep_freed_memory()


def set_rounding(tf32: bool) -> None:
    """Lets float32 products and convolutions round their factors to TF32 on CUDA, or lets nothing round them.

    torch has an old and a new switch for each, and raises an error where the two contradict each other.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    for backend, operation in (("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "conv"), ("mkldnn", "matmul")):
        rounded = tf32 and backend == "cuda"
        torch._C._set_fp32_precision_setter(backend, operation, "tf32" if rounded else "ieee")


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """A context at whose end torch's settings are as they were: all that `prepare` and `use_threads` change but memory.

    For processes that are not normbench's own.
    """
    cudnn, deterministic = torch.backends.cudnn, torch.utils.deterministic
    threads, debug_mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    # The first of them is a class property, which torch does not declare.
    filled, kernels = deterministic.fill_uninitialized_memory, (cudnn.benchmark, cudnn.deterministic)  # type: ignore[attr-defined]
    switches = [(*place, torch._C._get_fp32_precision_getter(*place)) for place in SWITCHES]
    old_switches = [_or_none(torch.get_float32_matmul_precision), _or_none(lambda: cudnn.allow_tf32)]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(debug_mode)
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]  # a class property
        cudnn.benchmark, cudnn.deterministic = kernels
        if old_switches[0] is not None:
            torch.set_float32_matmul_precision(old_switches[0])
        if old_switches[1] is not None:
            cudnn.allow_tf32 = old_switches[1]
        for switch in switches:
            torch._C._set_fp32_precision_setter(*switch)


def _or_none(old_switch: Callable[[], Any]) -> Any:
    """The value of an old switch of torch; None where it contradicts the new one, so that reading it is an error."""
    try:
        return old_switch()
    except RuntimeError:
        return None


def has_tf32(kind: str) -> bool:
    """Whether a kind of device computes in TF32: a GPU of NVIDIA's Ampere generation (2020) or a later one."""
    return kind == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def preload() -> None:
    """Imports what torch's optimizers import when they are made, so that processes forked afterwards have it.

    It takes more than a second of each process that imports it by itself.
    """
    import torch._dynamo  # noqa: F401  # for what the import does


def use_threads(count: int, kind: str) -> None:
    """Sets the number of threads of CPU operations in this process: `count`, or 1 for a run on a GPU.

    The number of threads decides the order in which sums are rounded, so on a CPU it changes the last digits of
    results. A GPU leaves little to the CPU, and processes that share one must not take all cores each.
    """
    torch.set_num_threads(count if kind == "cpu" else 1)


def has_bfloat16(kind: str) -> bool:
    """Whether a kind of device computes in bfloat16 natively, without emulation by float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = kind == "cpu" and torch.backends.mkldnn.is_available()
    return cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()
