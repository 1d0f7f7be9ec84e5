"""What a benchmark says of the CPU that it ran on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from normbench.runs.provenance import cpu_name
from normbench.system import device as devices

# Instruction sets that decide how fast float32 and bfloat16 are, as Linux calls them.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Returns those of INSTRUCTION_SETS that the CPU has; none where Linux does not tell."""
    path = Path("/proc/cpuinfo")
    known = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return [name for name in INSTRUCTION_SETS if name in known]


def description() -> str:
    """Returns the CPU's model, cores and instruction sets, whether it has bfloat16, and the version of torch."""
    sets = ", ".join(instruction_sets()) or "instruction sets unknown"
    bfloat16 = "bfloat16" if devices.has_bfloat16("cpu") else "no bfloat16"
    return f"{cpu_name()}, {cores()} cores, {sets} ({bfloat16}); torch {torch.__version__}"


def precisions() -> list[str]:
    """Returns the precisions that the CPU computes without emulation: `float32` and perhaps `bfloat16`."""
    return ["float32", *(["bfloat16"] if devices.has_bfloat16("cpu") else [])]
