"""How many runs fit on a device at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from normbench.runs.run import Run
from normbench.sweep.cost import Cost
from normbench.system.threads import cores

CONTEXT = 700 * 2**20  # bytes that a process takes on a GPU before its first tensor
MARGIN = 1.2  # factor on the measured bytes of a run, for fragmentation and the workspaces that cuDNN tries


def processes(device: str, threads: int, memory: int, waiting: int) -> int:
    """Returns how many of `waiting` runs fit on a device at a time: by cores on a CPU, by memory and cores on CUDA.

    threads: of a run on a CPU. memory: bytes that a run needs on the GPU (see `bytes_of_a_run`), which is not used on
    other devices. The result is at least 1; on MPS it is 1.
    """
    if device == "cpu":
        return max(1, min(cores() // threads, waiting))
    return on_gpu(torch.cuda.mem_get_info()[0], memory, cores(), waiting) if device == "cuda" else 1


def bytes_of_a_run(todo: list[Run], costs: Iterable[Cost]) -> int:
    """Returns the most bytes that one of the runs takes on a GPU: its data and the peak of training and predictions.

    Streamed images and images with masks do not stay there.
    """
    placed = [Path(run.bound.path) for run in todo if run.bound.reader_code is None and run.bound.masks is None]
    data = max((sum(file.stat().st_size for file in path.glob("*.npy")) for path in placed), default=0)
    return data + max((cost.memory for cost in costs), default=0)


def on_gpu(free: int, needed: int, cores: int, waiting: int) -> int:
    """Returns how many processes fit into `free` bytes of a GPU.

    Each needs a CUDA context and `needed` bytes times a margin. There are at most `cores` and at most `waiting`.
    """
    return max(1, min(int(free // (CONTEXT + MARGIN * needed)), cores, waiting))


def threads_of(todo: Iterable[Run]) -> int:
    """Returns the largest number of CPU threads in the recipes of the runs."""
    return max((run.task.recipe.threads for run in todo), default=1)
