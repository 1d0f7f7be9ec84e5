"""All missing runs of the suite into the run store, several at a time; then `dvc repro` only assembles.

A run is trained in a process of its own, with as many threads as in its stage, since bits depend on their number: what
a sweep leaves is, bit for bit on a CPU, what `dvc repro` leaves on the same machine.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from normbench.data.batches import Images
from normbench.runs import checkpoint, store
from normbench.runs import run as runs
from normbench.runs.run import Run
from normbench.sweep import plan
from normbench.sweep.board import Board
from normbench.system import device as devices
from normbench.system import files, layout, preemption, progress
from normbench.system import side_by_side as jobs
from normbench.system.errors import UserError
from normbench.training import numerics

POLL = 0.2  # seconds between two looks at what is running
REPORT = 0.3  # seconds between two reports of one run
CONTEXT = 700 * 2**20  # bytes that a process takes on a GPU before its first tensor
MARGIN = 1.2  # over the measured peak of a step: fragments, and the workspaces that cuDNN tries

OTHER = " (by another process)"

Tell = Callable[[float, str], None]  # what is done of 1, and free fields


def sweep(processes_wanted: int | None, ray: str | None, address: str | None) -> None:
    """`normbench sweep`. Ends with 1 where a run failed, with 75 or 130 where it was interrupted."""
    preemption.watch()
    if processes_wanted is not None and processes_wanted < 1:
        raise UserError(f"--jobs {processes_wanted}: must be at least 1")
    if address is not None and ray is None:
        raise UserError(f"--store {address}: is for nodes that share no folder, so it goes with --ray")
    checkpoint.interval()  # else every run would say what is wrong with it
    suite = prepare()
    for run in suite:
        runs.adopt(run)
    todo = [run for run in suite if not store.finished(run.id)]
    print(f"{len(suite)} runs in the suite, {len(suite) - len(todo)} finished, {len(todo)} to train", flush=True)
    if not todo:
        return
    device = devices.choose()
    threads = jobs.shares(device, len(todo[0].task["seeds"]))[1]  # its bits depend on them
    if ray is not None:
        from normbench.sweep import cluster as ray_sweep

        codes = ray_sweep.train_all(todo, ray, address, threads, processes_wanted)
    else:
        todo, beside = numerics.settled(todo, device, threads), processes_wanted
        if beside is None:
            measured = device == "cuda"
            costs = plan.measure_all(plan.of_runs(todo), device, threads).values() if measured else ()
            beside = processes(device, threads, bytes_of_a_run(todo, costs), len(todo))
        codes = train_all(todo, beside, threads, device)
    if codes - {0}:
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)
    print(f"all {len(suite)} runs are in {layout.store()}; `dvc repro` assembles them", flush=True)


def prepare() -> list[Run]:
    """The runs of the suite, once its data are here: by DVC where this is a project of it, else by the stages alone."""
    from normbench.suite.resolve import resolve

    resolved = resolve(layout.PARAMS)
    if Path(".dvc").is_dir() and importlib.util.find_spec("dvc") is not None:
        # Other sweeps and `dvc repro` may be at work here. Where nothing changed this takes a few seconds.
        commands = [["dvc", "--wait-for-lock", "repro", "--quiet", "bind"]]
    elif _bound(resolved):
        commands = []
    else:
        datasets = resolved["suite"]["datasets"]
        commands = [["stages.resolve"]]
        commands += [[f"stages.{stage}", "--dataset", name] for stage in ("download", "corrupt") for name in datasets]
        commands += [["stages.bind"]]
    for command in commands:
        done = subprocess.run([sys.executable, "-m", *command])
        if done.returncode != 0:
            raise SystemExit(done.returncode)
    bound, absent = runs.bound_tasks(resolved)
    if absent:
        raise UserError("\n".join(f"dataset {name}: {why}" for name, why in absent.items()))
    return runs.of_suite(resolved, bound)


def _bound(resolved: dict[str, Any]) -> bool:
    """Whether the stages before the training have run, with params.yaml as it is."""
    there = {name: layout.RESOLVED / f"{name}.json" for name in resolved}
    same = all(path.is_file() and files.read_json(path) == resolved[name] for name, path in there.items())
    tasks = [*resolved["suite"]["tasks"], *resolved["suite"]["gan_tasks"]]
    return same and all((layout.BOUND / f"{task}.json").is_file() for task in tasks)


def processes(device: str, threads: int, memory: int, waiting: int) -> int:
    """How many of `waiting` runs there is room for: by cores on a CPU, on a GPU by its free memory too.

    memory: bytes that a run takes on the GPU (see `bytes_of_a_run`); of no interest elsewhere.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu":
        return max(1, min(cores // threads, waiting))
    return room(torch.cuda.mem_get_info()[0], memory, cores, waiting) if device == "cuda" else 1


def bytes_of_a_run(todo: list[Run], costs: Iterable[plan.Cost]) -> int:
    """The most that one of the runs takes on a GPU: its data and the peak of a training step."""
    data = max(sum(file.stat().st_size for file in Path(run.bound["path"]).glob("*.npy")) for run in todo)
    return data + max((cost.memory for cost in costs), default=0)


def room(free: int, needed: int, cores: int, waiting: int) -> int:
    """Processes that fit into `free` bytes of a GPU, each with a context and, with a margin, `needed` bytes."""
    return max(1, min(int(free // (CONTEXT + MARGIN * needed)), cores, waiting))


def train_here(run: Run, data: Callable[[], dict[str, Images]], threads: int, beside: int, tell: Tell) -> bool:
    """Trains a run into the store in this process, or waits until another one has done so; whether it was this one.

    beside: processes that share the device with this one, itself included, for the record. tell: called now and then.
    """
    jobs.beside = beside
    torch.set_num_threads(threads)
    devices.prepare(devices.choose())
    last = 0.0

    def listen(share: float, fields: str) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last >= REPORT:
            last = time.monotonic()
            tell(share, fields)

    progress.listener = listen
    try:
        return runs.claim_and_train(run, runs.trainer(run.kind), data)
    finally:
        progress.listener = None


def outcome(run: Run) -> str:
    """How a finished run ended, in a few words."""
    record = store.record(run.id)
    if record["status"] == "diverged":
        return f"diverged at step {record['diverged']['step']}"
    accuracy = record["metrics"].get("clean_accuracy")
    return "finished" if accuracy is None else f"clean accuracy {accuracy:.4f}"


@dataclass
class Child:
    """A process that trains a run, and the end of the pipe by which it tells how that goes."""

    run: Run
    process: BaseProcess
    pipe: Connection
    error: str = ""
    other: bool = False  # another process had the run done


def train_all(todo: list[Run], processes: int, threads: int, device: str) -> set[int]:
    """Trains the runs, `processes` at a time, and returns the exit codes that they ended with.

    A run that fails leaves the others alone. Runs that another process of this store trains are left to it, and looked
    at again later. Where this process is to end, the others save their state first.
    """
    forked = device == "cpu" and jobs.FORKS
    context: Any = multiprocessing.get_context("fork" if forked else "spawn")
    data: dict[str, dict[str, Images]] = {}
    before = torch.get_num_threads()
    if forked:
        # A process that has used threads cannot be forked: those of OpenMP would be missing in its child. What the
        # children need is imported and read once, here.
        torch.set_num_threads(1)
        devices.prepare(device)  # this imports a good part of torch
        for kind in {run.kind for run in todo}:
            runs.trainer(kind)
    waiting, running, codes = list(todo), list[Child](), set[int]()
    with Board(todo) as board:
        try:
            while waiting or running:
                for run in [run for run in waiting if store.finished(run.id)]:
                    waiting.remove(run)
                    board.tell(run.id, "done", 1.0, outcome(run) + OTHER)
                for run in list(waiting):
                    if len(running) == processes:
                        break
                    if store.busy(run.id):
                        board.tell(run.id, "elsewhere")
                        continue
                    waiting.remove(run)
                    path = run.bound["path"]
                    if forked and path not in data:
                        data = {path: runs.load(Path(path), device)}
                    with preemption.saved():  # a child that is not in the list yet would not be told to end
                        running.append(_start(context, run, data.get(path), threads, processes))
                    if preemption.requested():
                        raise SystemExit(preemption.EXIT_CODE)
                    board.tell(run.id, "running", 0.0, "")
                multiprocessing.connection.wait([child.process.sentinel for child in running], timeout=POLL)
                running, ended = _look(running, board)
                codes |= ended
                board.tick()
        finally:
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.join()
            _look(running, board)
            torch.set_num_threads(before)
    return codes


def _start(context: Any, run: Run, data: dict[str, Images] | None, threads: int, beside: int) -> Child:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(run, data, threads, beside, there, os.getpid()))
    process.start()
    there.close()
    return Child(run, process, here)


def _look(running: list[Child], board: Board) -> tuple[list[Child], set[int]]:
    """Tells the board what the children told, and sorts out those that have ended, with their exit codes."""
    alive, codes = [], set()
    for child in running:
        ended = child.process.exitcode is not None
        try:
            while child.pipe.poll():
                kind, share, text = child.pipe.recv()
                if kind == "running":
                    board.tell(child.run.id, "running", share, text)
                child.other = kind == "other"
                child.error = text if kind == "failed" else ""
        except EOFError:
            pass
        if not ended:
            alive.append(child)
            continue
        code = child.process.exitcode or 0
        child.pipe.close()
        codes.add(code)
        if code == 0:
            board.tell(child.run.id, "done", 1.0, outcome(child.run) + child.other * OTHER)
        elif code == preemption.EXIT_CODE:
            board.tell(child.run.id, "stopped", fields="stopped; the same command goes on with it")
        else:
            text = child.error or f"its process was ended by signal {-code}" + (
                " (out of memory?)" if code == -9 else ""
            )
            if "\n" in text:
                board.note(text.rstrip())
            board.tell(child.run.id, "failed", fields=f"failed: {text.strip().splitlines()[-1]}")
    return alive, codes


def _child(run: Run, data: dict[str, Images] | None, threads: int, beside: int, pipe: Connection, parent: int) -> None:
    """Trains one run in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on a terminal it reaches all; the parent says what is to be done
    preemption.forked()
    preemption.watch()

    def tell(share: float, fields: str) -> None:
        if os.getppid() != parent:  # it was killed: nobody would wait for this process
            signal.raise_signal(signal.SIGTERM)
        else:
            pipe.send(("running", share, fields))

    def images() -> dict[str, Images]:
        return data if data is not None else runs.load(Path(run.bound["path"]), devices.choose())

    try:
        if not train_here(run, images, threads, beside, tell):
            pipe.send(("other", 1.0, ""))
    except (UserError, OSError) as error:
        pipe.send(("failed", 0.0, str(error)))
        raise SystemExit(1) from None
    except Exception:
        pipe.send(("failed", 0.0, traceback.format_exc()))
        raise SystemExit(1) from None
