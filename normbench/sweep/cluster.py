"""A sweep over the machines of a Ray cluster: a task for each run, tried again on another node where its own is lost.

All nodes have the repository at the same path, or `ray start` was called in it, and an environment with
`normbench[ray]`; the driver brings the data. Runs go to the store, a folder that all nodes share, or to an address that
fsspec knows.
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
from pathlib import Path
from typing import Any

from normbench.data.batches import Images
from normbench.runs import run as runs
from normbench.runs import store
from normbench.runs.remote import Remote
from normbench.runs.run import Run
from normbench.sweep import command as sweep
from normbench.sweep import plan
from normbench.sweep.board import Board
from normbench.system import device as devices
from normbench.system import layout, preemption
from normbench.system.errors import UserError
from normbench.training import numerics

RETRIES = 20  # of a run whose node or process is lost; it goes on from its last checkpoint
PATIENCE = 120.0  # seconds that interrupted runs have to save their state
PASSED_ON = ("NORMBENCH_DEVICE", "NORMBENCH_CHECKPOINT_MINUTES", "NORMBENCH_TRACEBACK")


class Reports:
    """The actor that runs tell how far they are, and that the driver asks."""

    def __init__(self) -> None:
        self.latest: dict[str, tuple[float, str]] = {}

    def tell(self, run: str, share: float, fields: str) -> None:
        self.latest[run] = share, fields

    def read(self) -> dict[str, tuple[float, str]]:
        """What was told since the last call, by run."""
        told, self.latest = self.latest, {}
        return told


def train_all(todo: list[Run], cluster: str, address: str | None, threads: int, beside: int | None) -> set[int]:
    """Trains the runs on a cluster and returns exit codes, as `sweep.train_all` does.

    cluster: as `ray.init` takes it. address: where finished runs and checkpoints go, None for the shared run store.
    beside: runs that share a GPU, None for as many as there is room for; on a CPU a run takes `threads` cores.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--ray {cluster}: Ray is not installed here; install normbench[ray]")
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = Remote(address) if address is not None else None
    if remote is not None:
        todo = [run for run in todo if not remote.take(run.id)]
        if not todo:
            return set()
    check_address(cluster)
    try:
        ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {cluster}: no cluster there ({str(error).partition(chr(10))[0]})") from None
    preemption.watch()  # ray.init puts a handler of its own in its place
    remotely: Any = ray.remote  # its types know no options that are computed
    try:
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        reports = remotely(num_cpus=0, scheduling_strategy=here)(Reports).remote()
        data = {path: ray.put(runs.arrays(Path(path))) for path in {run.bound["path"] for run in todo}}
        place = {
            "root": str(Path.cwd()),
            "store": str(layout.store().absolute()) if address is None else None,
            "address": address,
            "environment": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
        }
        options: dict[str, Any] = {"num_cpus": threads, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        wanted = os.environ.get("NORMBENCH_DEVICE", "auto")
        gpus = ray.cluster_resources().get("GPU", 0) if wanted in ("auto", "cuda") else 0
        if gpus:
            if beside is None:
                first = {(run.kind, *run.name[:2]): run for run in todo}
                measured = [(run, data[run.bound["path"]]) for run in first.values()]
                ask = remotely(num_cpus=1, num_gpus=1)(room)
                beside = min(len(todo), min(ray.get([ask.remote(*each, place) for each in measured])))
            options |= {"num_cpus": 1, "num_gpus": 1 / beside}
        else:
            todo = numerics.settled(todo, "cpu", threads, functools.partial(_machine, cluster, threads, place))
        task = remotely(**options)(work)
        refs = {
            task.remote(run, data[run.bound["path"]], None if gpus else threads, beside, place, reports): run
            for run in todo
        }
        return _follow(refs, reports, todo, remote)
    finally:
        ray.shutdown()


def check_address(cluster: str) -> None:
    """UserError where nobody listens at a host:port, for which Ray itself would wait for minutes."""
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
    """Shows how the runs go until all have ended; where this process is to end, they save their state first."""
    import ray

    codes = set[int]()
    # A signal is noted, as an exception that its handler raised within a call of Ray would end as another one.
    with Board(todo) as board, preemption.saved():
        try:
            while refs:
                if preemption.requested():
                    raise SystemExit(preemption.EXIT_CODE)
                ended, _ = ray.wait(list(refs), num_returns=len(refs), timeout=sweep.POLL)
                for run, (share, fields) in ray.get(reports.read.remote()).items():
                    if board.rows[run].state != "done":
                        board.tell(run, "running", share, fields)
                for ref in ended:
                    run = refs.pop(ref)
                    error = _error(ref)
                    if not error and remote is not None:
                        remote.take(run.id)
                    if not error and not store.finished(run.id):
                        error = f"trained, but not in {store.folder(run.id)}: the nodes do not share it; see --store"
                    codes.add(1 if error else 0)
                    if "\n" in error:
                        board.note(error.rstrip())
                    if error:
                        board.tell(run.id, "failed", fields=f"failed: {error.strip().splitlines()[-1]}")
                    else:
                        board.tell(run.id, "done", 1.0, sweep.outcome(run))
                board.tick()
        finally:
            for ref in refs:
                ray.cancel(ref)  # an interrupt in its process, where `work` turns it into a checkpoint
            if refs:
                ray.wait(list(refs), num_returns=len(refs), timeout=PATIENCE)
    return codes


def _error(ref: Any) -> str:
    """Why a task has no result; nothing where it has one."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def settle(place: dict[str, Any]) -> None:
    """Makes a process of a node like the driver: folder, run store, variables."""
    if os.path.isdir(place["root"]):
        os.chdir(place["root"])  # else where `ray start` was called
    if place["store"] is not None:
        os.environ["NORMBENCH_STORE"] = place["store"]
    os.environ.update(place["environment"])


_read: dict[str, dict[str, Images]] = {}  # the dataset of the last run in this process, on its device


def _images(run: Run, arrays: dict[str, Any]) -> dict[str, Images]:
    key = f"{run.bound['path']} {run.bound['fingerprint']}"
    if key not in _read:
        _read.clear()
        _read[key] = runs.images(arrays, devices.choose())
    return _read[key]


def work(
    run: Run, arrays: dict[str, Any], threads: int | None, beside: int | None, place: dict[str, Any], reports: Any
) -> str:
    """Trains a run in a process of a node, and returns what went wrong, or nothing.

    threads: None for as many as torch takes. beside: runs that share a GPU; on a CPU as many as the node has room for.
    """
    settle(place)
    if threading.current_thread() is threading.main_thread():
        preemption.watch()
        signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        import torch

        threads = threads or torch.get_num_threads()
        problem = _code_problem(run)
        if problem:
            raise UserError(f"{platform.node()}: {problem}")
        tell = functools.partial(_tell, reports, run.id)
        tell(0.0, "")
        images = functools.partial(_images, run, arrays)
        beside = beside or _cores() // threads
        if place["address"] is None:
            sweep.train_here(run, images, threads, beside, tell)
            return ""
        remote = Remote(place["address"])
        if not remote.take(run.id):
            remote.fetch_checkpoints(run.id)
            with remote.mirrored(run.id):
                sweep.train_here(run, images, threads, beside, tell)
            remote.give(run.id)
        return ""
    except (UserError, OSError) as error:
        return str(error)
    except Exception:
        return traceback.format_exc()


def _tell(reports: Any, run: str, share: float, fields: str) -> None:
    reports.tell.remote(run, share, f"{fields}, on {platform.node()}" if fields else f"on {platform.node()}")


def _cores() -> int:
    """Those that this node gives to Ray."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (found,) = [each for each in ray.nodes() if each["NodeID"] == node]
    return max(1, int(found["Resources"].get("CPU", 1)))


def _code_problem(run: Run) -> str | None:
    key = run.kind, run.code, run.task["model_code"], run.variant["method_code"]
    if key not in _checked:
        _checked[key] = runs.code_problem(run)
    return _checked[key]


_checked: dict[tuple[str, ...], str | None] = {}  # what code was compared in this process, and how it differs


def _machine(cluster: str, threads: int, place: dict[str, Any]) -> numerics.Machine:
    """The CPU of a node that has as many cores as a run takes: what it is, and how long steps take there.

    Raises UserError where there is none, or where it cannot tell.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= threads]
    if not nodes:
        raise UserError(f"--ray {cluster}: no node has the {threads} CPUs that a run takes; see OMP_NUM_THREADS")
    options = {"num_cpus": threads, "scheduling_strategy": NodeAffinitySchedulingStrategy(min(nodes), soft=False)}
    remotely: Any = ray.remote

    def ask(function: Any, *arguments: Any) -> Any:
        ref = remotely(**options)(function).remote(*arguments, place)
        with preemption.saved():  # as in `_follow`
            while not ray.wait([ref], timeout=sweep.POLL)[0]:
                if preemption.requested():
                    ray.cancel(ref)
                    raise SystemExit(preemption.EXIT_CODE)
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"--ray {cluster}: the precision cannot be measured on a node: {reason}") from None

    return numerics.Machine(**ask(facts), measure=lambda run, count: ask(step_times, run, count))


def facts(place: dict[str, Any]) -> dict[str, str]:
    """Of a node, those on which a choice of the precision depends."""
    settle(place)
    here = numerics.this_machine()
    return {"cpu": here.cpu, "torch": here.torch}


def step_times(run: Run, threads: int, place: dict[str, Any]) -> numerics.Times:
    """What a step of a run takes on a node, by precision and memory format."""
    settle(place)
    problem = _code_problem(run)
    if problem:
        raise UserError(f"{platform.node()}: {problem}")
    return numerics.step_times(run.task, run.bound, threads)


def room(run: Run, arrays: dict[str, Any], place: dict[str, Any]) -> int:
    """How many runs like this one fit on the GPU of a node."""
    settle(place)
    device = devices.choose()
    devices.prepare(device)
    cost = plan.measure(run, runs.images(arrays, device))
    return sweep.processes(device, 1, cost.memory + sum(part.nbytes for part in arrays["train"]), 10**6)
