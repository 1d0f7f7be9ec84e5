"""A sweep on this machine: several processes at a time, one for each run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from normbench.data.bound import Validation
from normbench.runs import images as of_runs
from normbench.runs import store
from normbench.runs.images import Data
from normbench.runs.run import Run
from normbench.runs.train import trainer
from normbench.sweep import worker
from normbench.sweep.board import Board
from normbench.system import device as devices
from normbench.system import preemption
from normbench.system.side_by_side import FORKS

POLL = 0.2  # seconds between two looks at the running processes
OTHER = " (by another process)"


@dataclass
class Child:
    """A process that trains a run, and the receiving end of the pipe for its messages.

    error: why it failed. other: whether another process has trained the run.
    """

    run: Run
    process: BaseProcess
    pipe: Connection
    error: str = ""
    other: bool = False


def train_all(todo: list[Run], processes: int, device: str, done: Callable[[Run], object] = lambda _: None) -> set[int]:
    """Trains the runs, at most `processes` at a time, and returns the set of the processes' exit codes.

    A run that fails does not stop the others. A run that another process is training is skipped and looked at again
    later. If this process is to end, the others save their state first. device: its kind. done: called with each run
    as soon as it is in the store.
    """
    forked = device == "cpu" and FORKS
    context: Any = multiprocessing.get_context("fork" if forked else "spawn")
    data: dict[tuple[str, Validation | None], Data] = {}  # of one dataset at a time
    before = torch.get_num_threads()
    if forked:
        make_forkable(todo, device)
    waiting, running, codes = list(todo), list[Child](), set[int]()
    with Board(todo) as board:
        try:
            while waiting or running:
                for run in [run for run in waiting if store.sound(run.id)]:
                    waiting.remove(run)
                    board.tell(run.id, "done", 1.0, worker.outcome(run) + OTHER)
                    done(run)
                for run in list(waiting):
                    if len(running) == processes:
                        break
                    if store.busy(run.id):
                        board.tell(run.id, "elsewhere")
                        continue
                    waiting.remove(run)
                    images = run.bound.path, run.bound.validation
                    if forked and images not in data:
                        data = {images: of_runs.load(run.bound, device)}
                    with preemption.saved():  # Only children in the list are told to end.
                        running.append(start(context, run, data.get(images), processes))
                    if preemption.requested():
                        raise SystemExit(preemption.EXIT_CODE)
                    board.tell(run.id, "running", 0.0, "")
                multiprocessing.connection.wait([child.process.sentinel for child in running], timeout=POLL)
                looked_at = running
                running, ended = look(looked_at, board)
                codes |= ended
                for child in looked_at:
                    if child not in running and child.process.exitcode == 0:
                        done(child.run)
                board.tick()
        finally:
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.join()
            look(running, board)
            torch.set_num_threads(before)
    return codes


def make_forkable(todo: list[Run], device: str) -> None:
    """Imports everything that the children need, and limits this process to one thread.

    A process that has used threads must not fork: the child would lack the threads of OpenMP.
    """
    torch.set_num_threads(1)
    devices.prepare(device)
    devices.preload()
    for kind in {run.kind for run in todo}:
        trainer(kind)


def start(context: Any, run: Run, data: Data | None, beside: int) -> Child:
    """Starts the process that trains a run. data: the run's images, or None. beside: the number of parallel runs."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=worker.child, args=(run, data, beside, there, os.getpid()))
    process.start()
    there.close()
    return Child(run, process, here)


def look(running: list[Child], board: Board) -> tuple[list[Child], set[int]]:
    """Passes the children's messages to the board; returns the running children and the exit codes of the others."""
    alive, codes = [], set()
    for child in running:
        ended = child.process.exitcode is not None
        listen(child, board)
        if not ended:
            alive.append(child)
            continue
        child.pipe.close()
        codes.add(child.process.exitcode or 0)
        tell_end(child, board)
    return alive, codes


def listen(child: Child, board: Board) -> None:
    """Reads the messages of a child (see `worker.child`)."""
    try:
        while child.pipe.poll():
            kind, share, text = child.pipe.recv()
            if kind == "running":
                board.tell(child.run.id, "running", share, text)
            child.other = kind == "other"
            child.error = text if kind == "failed" else ""
    except EOFError:
        pass


def tell_end(child: Child, board: Board) -> None:
    """Tells the board how the process of a run has ended."""
    code = child.process.exitcode or 0
    if code == 0:
        board.tell(child.run.id, "done", 1.0, worker.outcome(child.run) + child.other * OTHER)
    elif code == preemption.EXIT_CODE:
        board.tell(child.run.id, "stopped", fields="stopped; the same command goes on with it")
    else:
        memory = " (out of memory?)" if code == -9 else ""
        text = child.error or f"its process was ended by signal {-code}{memory}"
        if "\n" in text:
            board.note(text.rstrip())
        board.tell(child.run.id, "failed", fields=f"failed: {text.strip().splitlines()[-1]}")
