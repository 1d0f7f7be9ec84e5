"""`normbench sweep`: trains all missing runs of the suite into the run store, several at a time.

A run has as many threads as its recipe says, so on a CPU a sweep gives bit for bit the runs that `dvc repro` gives.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from normbench.data import intact
from normbench.runs import checkpoint, store
from normbench.runs.run import FID_FEATURES, Kind, Run
from normbench.suite import runs, trial
from normbench.suite.real import feature_run
from normbench.suite.resolve import resolve
from normbench.suite.resolved import Resolved
from normbench.sweep import local, room
from normbench.sweep.cost import measure_all
from normbench.system import device as devices
from normbench.system import layout, preemption, ranks
from normbench.system.errors import UserError
from normbench.system.text import complain, say


def sweep(processes: int | None, ray: str | None, address: str | None) -> None:
    """Trains all missing runs. Exits with code 1 if a run failed, and with 75 or 130 if the sweep was interrupted.

    processes: the number of parallel runs; None for as many as fit. ray: the address of a Ray cluster; None for this
    machine. address: where the nodes of a cluster store runs if they share no folder. Raises UserError if an argument
    is not valid.
    """
    preemption.watch()
    if processes is not None and processes < 1:
        raise UserError(f"--jobs {processes}: must be at least 1")
    if address is not None and ray is None:
        raise UserError(f"--store {address}: is for nodes that share no folder, so it goes with --ray")
    if ray is not None and ranks.wanted() > 1:
        raise UserError(f"{ranks.WANTED} = {ranks.wanted()}: is for the processes of one machine, so not with --ray")
    resolved = resolve()
    trial.check(trial.of_params(resolved))
    train(resolved, processes, ray, address)


def train(resolved: Resolved, processes: int | None = None, ray: str | None = None, address: str | None = None) -> None:
    """Trains all missing runs of a suite that has been checked; see `sweep`."""
    checkpoint.interval()  # Checks the variable here, so that not every run reports a mistake in it.
    suite = prepare(resolved)
    todo = [run for run in suite if not store.sound(run.id)]
    say(f"{len(suite)} runs in the suite, {len(suite) - len(todo)} finished, {len(todo)} to train")
    if ray is None:
        todo = [run for run in feature_runs(suite) if not store.sound(run.id)] + todo
    if not todo:
        return
    for bound in {run.bound.path: run.bound for run in todo}.values():
        intact.check_bound(bound)
    if ray is not None:
        from normbench.sweep import cluster

        codes = cluster.train_all(todo, ray, address, processes)
    else:
        codes, todo = together(todo)
        device = devices.choose()
        codes |= local.train_all(todo, processes or fitting(todo, device), device) if todo else set()
    if codes - {0}:
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)
    say(f"all {len(suite)} runs are in {layout.store()}; `dvc repro` assembles them")


def together(todo: list[Run]) -> tuple[set[int], list[Run]]:
    """Trains all but GANs one by one, each by as many processes as NORMBENCH_RANKS says, if it says several.

    Returns the exit codes, and the runs that are left.
    """
    if ranks.wanted() == 1:
        return set(), todo
    shared = [run for run in todo if run.kind is not Kind.GAN and run.task.name != FID_FEATURES]
    cells = dict.fromkeys(run.name[:2] for run in shared)
    codes = {call(["stages.train", "--task", task, "--variant", variant]) for task, variant in cells}
    return codes, [run for run in todo if run not in shared]


def feature_runs(suite: list[Run]) -> list[Run]:
    """Returns the runs that train the classifiers for the FID of the suite's GANs, one for each dataset.

    MPS has no float64, so that the FID is computed on the CPU there and trains its classifier itself.
    """
    if devices.choose() == "mps":
        return []
    datasets = {run.bound.name: run.bound for run in suite if run.kind is Kind.GAN}
    return [feature_run(bound) for bound in datasets.values() if bound.classes > 1]


def fitting(todo: list[Run], device: str) -> int:
    """Returns how many of the runs fit on this machine at a time. On CUDA, their memory is measured first."""
    costs = measure_all(todo, device).values() if device == "cuda" else ()
    return room.processes(device, room.threads_of(todo), room.bytes_of_a_run(todo, costs), len(todo))


def prepare(resolved: Resolved) -> list[Run]:
    """Prepares the data of the suite and returns its runs.

    It uses DVC in a DVC project and calls the stages itself elsewhere. Exits with the code of a stage that fails.
    """
    for command in commands(resolved):
        code = call(command)
        if code != 0:
            shown = " ".join(word for word in command if word != "--quiet")
            complain(f"python -m {shown}: failed, and so called it says why")
            raise SystemExit(code)
    runs.adopt_outputs(resolved.suite)
    bound, absent = runs.bound_tasks(resolved)
    if absent:
        raise UserError(*(f"dataset {name}: {why}" for name, why in absent.items()))
    return runs.of_suite(resolved, bound)


def call(command: list[str]) -> int:
    """Returns the exit code of a Python module. It ends, with all that it has started, when this process is ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=os.environ | {preemption.ENDS_WITH: str(os.getpid())},
        start_new_session=True,
        preexec_fn=functools.partial(preemption.end_with, os.getpid()) if sys.platform == "linux" else None,
    )
    try:
        return process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise


def commands(resolved: Resolved) -> list[list[str]]:
    """Returns the Python modules, with their arguments, whose execution prepares the data of the suite."""
    if Path(".dvc").is_dir() and importlib.util.find_spec("dvc") is not None:
        # Waits for other sweeps and `dvc repro` in this folder. Without changes it takes a few seconds.
        return [["dvc", "--wait-for-lock", "repro", "--quiet", "bind"]]
    if is_bound(resolved):
        return []
    datasets = resolved.suite.datasets
    by_dataset = [[f"stages.{stage}", "--dataset", name] for stage in ("download", "corrupt") for name in datasets]
    return [["stages.look"], ["stages.resolve"], *by_dataset, ["stages.bind"]]


def is_complete(resolved: Resolved) -> bool:
    """Whether the data is prepared and each run is finished, in the store or in the output of its stage."""
    bound, absent = runs.bound_tasks(resolved)
    return not absent and is_bound(resolved) and all(map(store.done, runs.of_suite(resolved, bound)))


def is_bound(resolved: Resolved) -> bool:
    """Whether the stages before the training have run for params.yaml as it is."""
    tasks = [name for tasks in resolved.tasks.values() for name in tasks]
    return resolved.is_written() and all((layout.BOUND / f"{task}.json").is_file() for task in tasks)
