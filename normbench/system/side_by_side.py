"""Runs side by side on the CPU: a process for each, as layers of small networks leave a second thread little to do."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import signal
import sys
from collections.abc import Callable, Sequence

import torch

from normbench.system import preemption, progress

FORKS = sys.platform == "linux"  # elsewhere a forked process may not use what its parent has used

beside = 1  # processes that share the machine with this one, itself included; it stands in each record


def processes_for(kind: str, threads: int, tasks: int) -> int:
    """How many processes of so many threads work on the tasks: as many as torch's threads, by default one for each
    core, leave room for on a Linux CPU; one elsewhere."""
    room = torch.get_num_threads() // threads if kind == "cpu" and FORKS else 1
    return max(1, min(room, tasks))


def side_by_side(tasks: Sequence[Callable[[], object]], kind: str, threads: int) -> None:
    """Calls every task, several at a time on a Linux CPU and one after the other elsewhere.

    kind: of the device. threads: of each task on a CPU, however many tasks run beside it, as bits depend on that.
    A task that fails leaves the others alone; then the process ends with 1, as the failing one has said why. Where this
    process is asked to end (see `preemption`), it tells the others so, and ends when they have saved their state.
    """
    processes = processes_for(kind, threads, len(tasks))
    if processes == 1:
        for task in tasks:
            task()
        return
    before = torch.get_num_threads()
    # A process that has used threads cannot be forked: those of OpenMP would be missing in its child.
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    waiting = list(tasks)
    running: list[multiprocessing.process.BaseProcess] = []
    codes: set[int | None] = set()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                with preemption.saved():  # a child that is not in the list yet would not be told to end
                    new = context.Process(target=_call, args=(waiting.pop(0), processes, threads))
                    new.start()
                    running.append(new)
                if preemption.requested():
                    raise SystemExit(preemption.EXIT_CODE)
            multiprocessing.connection.wait([child.sentinel for child in running])
            ended = [child for child in running if child.exitcode is not None]
            for child in ended:
                if (child.exitcode or 0) < 0:  # it could not say why itself
                    memory = " (out of memory?)" if child.exitcode == -signal.SIGKILL else ""
                    text = f"a process was ended by signal {-(child.exitcode or 0)}{memory}; the same command goes on"
                    print(text, file=sys.stderr, flush=True)
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


def _call(task: Callable[[], object], processes: int, threads: int) -> None:
    from normbench.system import stage

    preemption.forked()
    global beside
    beside = processes
    progress.plain = True  # bars of several processes would overwrite each other
    torch.set_num_threads(threads)
    stage.guarded(task)
