"""A sweep on a Ray cluster: one Ray task for each run, which is retried on another node if its node is lost.

Each node needs the repository, at the same path or as the folder in which `ray start` was called, and an environment
with `normbench[ray]`. The driver sends the data. Finished runs go to the run store if all nodes share its folder, or
else to an address that fsspec knows.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import platform
import signal
import socket
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.data.prepared import Arrays
from normbench.data.scenes import MaskedArrays
from normbench.runs import images, store
from normbench.runs.images import Data
from normbench.runs.remote import Remote
from normbench.runs.run import Run
from normbench.suite import code
from normbench.sweep import cost, worker
from normbench.sweep.board import Board
from normbench.sweep.local import POLL
from normbench.sweep.room import processes
from normbench.system import blame, layout, preemption, threads
from normbench.system import device as devices
from normbench.system.errors import UserError, line

RETRIES = 20  # for a run whose node or process is lost; it continues from its last checkpoint
PATIENCE = 120.0  # seconds in which interrupted runs can save their state
PASSED_ON = ("NORMBENCH_DEVICE", "NORMBENCH_CHECKPOINT_MINUTES", "NORMBENCH_TRACEBACK")  # variables copied to nodes


@dataclass(frozen=True)
class Place:
    """The surroundings of a run on a node.

    root: the folder of the repository. store: the run store, or None for the node's own. address: where finished runs
    and checkpoints go, or None for the run store. environment: variables to set.
    """

    root: str
    store: str | None
    address: str | None
    environment: dict[str, str]


class Reports:
    """An actor that collects the progress of the runs for the driver."""

    def __init__(self) -> None:
        self.latest: dict[str, tuple[float, str]] = {}

    def tell(self, run: str, share: float, fields: str) -> None:
        """Stores the progress of a run: the finished share, 0..1, and free text."""
        self.latest[run] = share, fields

    def read(self) -> dict[str, tuple[float, str]]:
        """Returns the progress that has arrived since the last call, by run."""
        told, self.latest = self.latest, {}
        return told


def train_all(todo: list[Run], cluster: str, address: str | None, beside: int | None) -> set[int]:
    """Trains the runs on a cluster and returns a set of exit codes, 0 for success and 1 for a failure.

    cluster: its address, as `ray.init` takes it. address: where finished runs and checkpoints go; None for the shared
    run store. beside: the number of runs that share a GPU; None for as many as fit. On a CPU, a run takes as many cores
    as it has threads. Raises UserError if Ray is not installed or the cluster cannot be reached.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--ray {cluster}: Ray is not installed here; install normbench[ray]")
    import ray

    remote = Remote(address) if address is not None else None
    if remote is not None:
        todo = [run for run in todo if not remote.take(run.id)]
        if not todo:
            return set()
    connect(cluster)
    try:
        place = Place(
            root=str(Path.cwd()),
            store=str(layout.store().absolute()) if address is None else None,
            address=address,
            environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        )
        refs, reports = submit(todo, cluster, place, beside)
        return _follow(refs, reports, todo, remote)
    finally:
        ray.shutdown()


def connect(cluster: str) -> None:
    """Connects to a cluster. Raises UserError if there is none at the address."""
    import ray

    check_address(cluster)
    try:
        # Only so are they set before a node's process imports torch.
        environment = {"env_vars": {name: os.environ[name] for name in threads.ENVIRONMENT if name in os.environ}}
        ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {cluster}: no cluster there ({str(error).partition(chr(10))[0]})") from None
    preemption.watch()  # ray.init has replaced the handler of SIGTERM.


def submit(todo: list[Run], cluster: str, place: Place, beside: int | None) -> tuple[dict[Any, Run], Any]:
    """Submits a task for each run; returns the runs by task, and the actor that collects their progress.

    Raises UserError if no node has as many CPUs as a run has threads.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remotely: Any = ray.remote  # Ray's type hints do not accept computed options.
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = remotely(num_cpus=0, scheduling_strategy=here)(Reports).remote()
    data = {run.bound.path: run.bound for run in todo}
    # The nodes read streamed images themselves, from folders that they share with this one.
    held = {path: ray.put(images.read(bound)) for path, bound in data.items()}
    wanted = os.environ.get("NORMBENCH_DEVICE", "auto")
    gpus = ray.cluster_resources().get("GPU", 0) if wanted in ("auto", "cuda") else 0
    if gpus and beside is None:
        first = {run.cell: run for run in todo}
        ask = remotely(num_cpus=1, num_gpus=1)(room)
        rooms = ray.get([ask.remote(run, held[run.bound.path], place) for run in first.values()])
        beside = min(len(todo), min(rooms))
    refs = {}
    for run in todo:
        needed = run.task.recipe.threads
        options: dict[str, Any] = {"num_cpus": needed, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        if gpus and beside is not None:
            options |= {"num_cpus": 1, "num_gpus": 1 / beside}
        elif not any(node["Alive"] and node["Resources"].get("CPU", 0) >= needed for node in ray.nodes()):
            raise UserError(f"--ray {cluster}: no node has the {needed} CPUs of a run (`threads` in its recipe)")
        task = remotely(**options)(work)
        refs[task.remote(run, held[run.bound.path], beside if gpus else None, place, reports)] = run
    return refs, reports


def check_address(cluster: str) -> None:
    """Raises UserError if nothing listens at a host:port. Ray itself would wait for minutes."""
    host, _, port = cluster.rpartition(":")
    if cluster in ("auto", "local") or "://" in cluster:
        return
    if not host or not port.isdecimal():
        raise UserError(f"--ray {cluster}: must be host:port of the head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {cluster}: no cluster there ({error})") from None


def _follow(refs: dict[Any, Run], reports: Any, todo: list[Run], remote: Remote | None) -> set[int]:
    """Shows the progress until all runs have ended. If this process is to end, the runs first save their state."""
    import ray

    codes = set[int]()
    # Only note a signal: if its handler raised an exception within a call of Ray, Ray would replace the exception.
    with Board(todo) as board, preemption.saved():
        try:
            while refs:
                if preemption.requested():
                    raise SystemExit(preemption.EXIT_CODE)
                ended, _ = ray.wait(list(refs), num_returns=len(refs), timeout=POLL)
                for run, (share, fields) in ray.get(reports.read.remote()).items():
                    if board.rows[run].state != "done":
                        board.tell(run, "running", share, fields)
                for ref in ended:
                    run = refs.pop(ref)
                    error = _error(ref)
                    if not error and remote is not None:
                        remote.take(run.id)
                    if not error and not store.sound(run.id):
                        error = f"trained, but not in {store.folder(run.id)}: the nodes do not share it; see --store"
                    codes.add(1 if error else 0)
                    if "\n" in error:
                        board.note(error.rstrip())
                    if error:
                        board.tell(run.id, "failed", fields=f"failed: {error.strip().splitlines()[-1]}")
                    else:
                        board.tell(run.id, "done", 1.0, worker.outcome(run))
                board.tick()
        finally:
            for ref in refs:
                ray.cancel(ref)  # raises SIGINT in the run's process, where `work` saves a checkpoint
            if refs:
                ray.wait(list(refs), num_returns=len(refs), timeout=PATIENCE)
    return codes


def _error(ref: Any) -> str:
    """Returns why a task failed; an empty string if it did not."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def settle(place: Place) -> None:
    """Gives a process on a node the working folder, the run store and the environment variables of the driver."""
    if os.path.isdir(place.root):
        os.chdir(place.root)  # Otherwise the folder in which `ray start` was called is used.
    if place.store is not None:
        os.environ["NORMBENCH_STORE"] = place.store
    os.environ.update(place.environment)


_read: dict[str, Data] = {}  # the dataset of this process's last run, on its device


def _images(run: Run, arrays: Arrays | MaskedArrays | None) -> Data:
    key = f"{run.bound.path} {run.bound.identity()}"
    if key not in _read:
        _read.clear()
        _read[key] = images.placed(arrays, run.bound, devices.choose())
    return _read[key]


def work(run: Run, arrays: Arrays | MaskedArrays | None, beside: int | None, place: Place, reports: Any) -> str:
    """Trains a run in a process of a node; returns the text of the error, or an empty string.

    beside: the number of runs that share a GPU; None on a CPU, where it follows from the node's cores.
    """
    settle(place)
    if threading.current_thread() is threading.main_thread():
        preemption.watch()
        signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        problem = code.problem(run)
        if problem:
            raise UserError(f"{platform.node()}: {problem}")
        tell = functools.partial(_tell, reports, run.id)
        tell(0.0, "")
        own = functools.partial(_images, run, arrays)
        beside = beside or max(1, _cores() // run.task.recipe.threads)
        if place.address is None:
            worker.train_here(run, own, beside, tell)
            return ""
        remote = Remote(place.address)
        if not remote.take(run.id):
            remote.fetch_checkpoints(run.id)
            with remote.mirrored(run.id):
                worker.train_here(run, own, beside, tell)
            remote.give(run.id)
        return ""
    except UserError as error:
        return str(error)
    except OSError as error:
        return line(error)
    except Exception as error:
        return blame.known(error) or traceback.format_exc()


def _tell(reports: Any, run: str, share: float, fields: str) -> None:
    reports.tell.remote(run, share, f"{fields}, on {platform.node()}" if fields else f"on {platform.node()}")


def _cores() -> int:
    """Returns the number of cores that this node offers to Ray."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (found,) = [each for each in ray.nodes() if each["NodeID"] == node]
    return max(1, int(found["Resources"].get("CPU", 1)))


def room(run: Run, arrays: Arrays | MaskedArrays | None, place: Place) -> int:
    """Returns how many runs like this one fit on the GPU of this node."""
    settle(place)
    device = devices.choose()
    measured = cost.measure(run, images.placed(arrays, run.bound, device))
    return processes(device, 1, measured.memory + (0 if arrays is None else arrays.nbytes), 10**6)
