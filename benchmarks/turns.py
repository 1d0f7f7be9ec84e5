"""Times functions that take turns in one process, so that load on the machine affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 2  # rounds that do not count


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Returns the seconds of one call, including the work that it queues on a GPU.

    On a CPU with one thread they are processor time, which is that of the clock on a quiet machine and which another
    process changes less. With more threads they are the time of the clock.
    """
    if device == "cuda":
        torch.cuda.synchronize()
    now = time.process_time if by_processor(device) else time.perf_counter
    start = now()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def by_processor(device: str = "cpu") -> bool:
    """Whether `seconds` measures processor time, with the current number of threads."""
    return device == "cpu" and torch.get_num_threads() == 1


def clock(device: str = "cpu") -> str:
    """Returns what `seconds` measures, in words."""
    return "processor time" if by_processor(device) else "time of the clock"


def take_turns(works: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Returns the median milliseconds of each function, after two rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + WARM_UP):
        for name, work in works.items():
            spent = seconds(work, device)
            if turn >= WARM_UP:
                times[name].append(1000 * spent)
    return {name: statistics.median(values) for name, values in times.items()}
