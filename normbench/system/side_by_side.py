"""Parallel tasks on the CPU, one process for each: the layers of small networks gain little from a second thread."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import sys
from collections.abc import Callable, Sequence

import torch

from normbench.system import preemption, progress, ranks
from normbench.system.text import complain
from normbench.system.threads import cores

FORKS = sys.platform == "linux"  # elsewhere a forked process cannot safely use the libraries that its parent has used

beside = 1  # number of processes that share the machine, this one included; each record has it


def processes_for(kind: str, threads: int, tasks: int) -> int:
    """Returns how many processes with `threads` threads each work on `tasks` tasks.

    On a CPU under Linux they have as many threads together as there are cores (see `threads.cores`), but there are
    never more processes than tasks. Elsewhere, and where several processes work on each task, the result is 1.
    """
    room = cores() // threads if kind == "cpu" and FORKS and ranks.size() == 1 else 1
    return max(1, min(room, tasks))


def side_by_side(tasks: Sequence[Callable[[], object]], kind: str, threads: int) -> None:
    """Calls every task: several at a time, in forked processes, on a CPU under Linux; elsewhere one after the other.

    kind: of the device. threads: of each task on a CPU. It does not depend on the number of parallel tasks, because the
    number of threads decides the last bits of a result.

    A task that fails does not stop the others; after them this process exits with 1 (the failed task has printed why).
    If this process receives SIGTERM, it passes it on to the others and exits when they have saved their state (see
    `preemption`).
    """
    processes = processes_for(kind, threads, len(tasks))
    if processes == 1:
        for task in tasks:
            task()
        return
    before = torch.get_num_threads()
    # A process that has used threads must not fork: the child would lack the threads of OpenMP.
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    waiting = list(tasks)
    running: list[multiprocessing.process.BaseProcess] = []
    codes: set[int | None] = set()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                with preemption.saved():  # only children in the list are told to end
                    new = context.Process(target=_call, args=(waiting.pop(0), processes, threads, os.getpid()))
                    new.start()
                    running.append(new)
                if preemption.requested():
                    raise SystemExit(preemption.EXIT_CODE)
            multiprocessing.connection.wait([child.sentinel for child in running])
            ended = [child for child in running if child.exitcode is not None]
            for child in ended:
                if (child.exitcode or 0) < 0:  # a killed process cannot report the reason itself
                    memory = " (out of memory?)" if child.exitcode == -signal.SIGKILL else ""
                    text = f"a process was ended by signal {-(child.exitcode or 0)}{memory}; the same command goes on"
                    complain(text)
            codes |= {child.exitcode for child in ended}
            running = [child for child in running if child not in ended]
    finally:
        for child in running:
            child.terminate()
        for child in running:
            child.join()
        torch.set_num_threads(before)
    if codes - {0}:
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)


def _call(task: Callable[[], object], processes: int, threads: int, parent: int) -> None:
    from normbench.system import stage

    preemption.forked()
    preemption.end_with(parent)
    global beside
    beside = processes
    progress.plain = True  # bars of several processes would overwrite each other
    torch.set_num_threads(threads)
    stage.guarded(task)
