"""How many runs there is room for side by side on a device."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from normbench.runs.run import Run
from normbench.sweep.cost import Cost

CONTEXT = 700 * 2**20  # bytes that a process takes on a GPU before its first tensor
MARGIN = 1.2  # over the measured peak of a step: fragments, and the workspaces that cuDNN tries


def processes(device: str, threads: int, memory: int, waiting: int) -> int:
    """How many of `waiting` runs there is room for: by cores on a CPU, on a GPU by its free memory too.

    memory: bytes that a run takes on the GPU (see `bytes_of_a_run`); not used elsewhere.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu":
        return max(1, min(cores // threads, waiting))
    return on_gpu(torch.cuda.mem_get_info()[0], memory, cores, waiting) if device == "cuda" else 1


def bytes_of_a_run(todo: list[Run], costs: Iterable[Cost]) -> int:
    """The most bytes that one of the runs takes on a GPU: its data and the peak of a training step."""
    data = max(sum(file.stat().st_size for file in Path(run.bound.path).glob("*.npy")) for run in todo)
    return data + max((cost.memory for cost in costs), default=0)


def on_gpu(free: int, needed: int, cores: int, waiting: int) -> int:
    """Processes that fit into `free` bytes of a GPU, each with a context and, with a margin, `needed` bytes."""
    return max(1, min(int(free // (CONTEXT + MARGIN * needed)), cores, waiting))


def threads_of(todo: Iterable[Run]) -> int:
    """The most CPU threads that one of the runs has."""
    return max((run.task.recipe.threads for run in todo), default=1)
