"""Runs side by side on the CPU: a process for each, as layers of small networks leave a second thread little to do."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from normbench.system import preemption, progress

FORKS = sys.platform == "linux"  # elsewhere a forked process may not use what its parent has used

beside = 1  # processes that share the machine with this one, itself included; it stands in each record


def shares(kind: str, seeds: int) -> tuple[int, int]:
    """Processes that the seeds of a task and variant are trained in, and the threads of each."""
    threads = torch.get_num_threads()
    processes = min(threads, seeds) if kind == "cpu" and FORKS else 1
    return processes, threads // processes


def side_by_side(tasks: Sequence[Callable[[], object]], kind: str, seeds: int) -> None:
    """Calls every task, several at a time on a Linux CPU and one after the other elsewhere.

    The threads are divided among as many processes as there are seeds, however many tasks are left of them: bits
    depend on the number of threads, and a run that is made up for later must equal one that was not. A task that fails
    leaves the others alone; then the process ends with 1, as the failing one has said why. Where this process is to end
    (`preemption`), the others are told so, and it ends when they have saved their state.
    """
    threads = torch.get_num_threads()
    processes, threads_each = shares(kind, seeds)
    if processes == 1:
        for task in tasks:
            task()
        return
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
                    new = context.Process(target=_call, args=(waiting.pop(0), processes, threads_each))
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
        torch.set_num_threads(threads)
    if codes - {0}:
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)


class Lost(Exception):
    """A process ended without the result that it was to bring."""


def apart(task: Callable[[], Any]) -> Any:
    """What a task returns, from a forked process where there are such: this one stays as it is, and can be forked.

    Raises Lost where that process ends without a result; unless it was killed, it has said why.
    """
    if not FORKS:
        return task()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # see `side_by_side`
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(task, there))
    try:
        child.start()
        there.close()
        return here.recv()
    except EOFError:
        raise Lost from None
    finally:
        child.terminate()
        child.join()
        torch.set_num_threads(threads)


def _tell(task: Callable[[], Any], pipe: Connection) -> None:
    preemption.forked()
    pipe.send(task())


def _call(task: Callable[[], object], processes: int, threads: int) -> None:
    from normbench.system import stage

    preemption.forked()
    global beside
    beside = processes
    progress.plain = True  # bars of several processes would overwrite each other
    torch.set_num_threads(threads)
    stage.guarded(task)
