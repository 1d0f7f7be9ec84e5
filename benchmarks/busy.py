"""Measures what a process that keeps one core busy costs; it is started here, with the same priority.

A network, by default a small one, is trained with three settings of the CPU's threads: one for each core, which wait as
the libraries do by default; one for each core, which wait asleep; and one alone. They take turns, quiet and beside the
busy process, each in a process of its own, because the libraries read their settings when they are loaded. The first
turns do not count. The table has medians of images per second, with their ratios to one thread on the quiet machine,
and the ratio of busy to quiet.

    python -m benchmarks.busy [--model resnet8] [--width 16] [--size 12] [--turns 5] [--seconds 1]
    python -m benchmarks.busy --suite "one thread" ["passive waiting" ...]

The second makes the results of params.yaml from scratch with the given settings, quiet and busy, each in a clone of the
last commit. It says how long that takes, how much of the CPU's time, which grows if threads wait awake, and whether the
numbers and weights are the same in all of them. normbench itself has the last setting, unless the environment has
another one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.data.batches import on_device
from normbench.functional import placement
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.provenance import cpu_name
from normbench.system import device as devices
from normbench.system.threads import ENVIRONMENT, cores
from normbench.training.optimization import optimizer, step_loss
from normbench.training.recipe import Recipe, augmentation

ROOT = Path(__file__).resolve().parents[1]
ONE = "one thread"
ALL = {"OMP_NUM_THREADS": str(cores())}
# The variables of a setting. Others that begin in the same way are removed.
SETTINGS = {"default waiting": ALL, "passive waiting": ENVIRONMENT | ALL, ONE: ENVIRONMENT}
BEGINNINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "OPENCV_")
# What `make results` calls, without the environment that it makes.
COMMANDS = (["normbench", "check", "--refresh"], ["dvc", "repro"])
IMAGES, CLASSES = 4096, 10


def environment(setting: str) -> dict[str, str]:
    """Returns the environment of a process with a setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith(BEGINNINGS)} | SETTINGS[setting]


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Inside it another process takes all of the time that a core has for it."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


LOADS = (contextlib.nullcontext, busy)


def train(arguments: argparse.Namespace, pipe: Connection) -> None:
    """The main function of a setting's process: trains for as many seconds as it is told; sends images per second."""
    devices.prepare("cpu")
    devices.use_threads(int(os.environ["OMP_NUM_THREADS"]), "cpu")
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (IMAGES, arguments.size, arguments.size, 3), dtype=np.uint8)
    labels = chance.integers(0, CLASSES, IMAGES)
    recipe = Recipe(epochs=1, batch_size=64, crop_padding=1)
    method = methods.build("batch_norm", {})
    network = models.classifier(arguments.model, {"width": arguments.width}, method, 3, CLASSES)
    model = placement.placed(network, "cpu", recipe.memory_format).train()
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), [0.5] * 3, [0.5] * 3, "cpu")
    images = images.made_for(model, recipe.memory_format)
    batches = images.batches(recipe.batch_size, recipe.drop_last, 0, augmentation(recipe))
    optim = optimizer(model, method, recipe)
    while (seconds := pipe.recv()) is not None:
        trained, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            for x, y in batches.epoch(0):
                loss, _ = step_loss(model, model, method, x, y, recipe)
                optim.zero_grad(set_to_none=True)
                loss.backward()
                optim.step()
                trained += len(y)
                if time.perf_counter() - start >= seconds:
                    break
        pipe.send(trained / spent)


def speeds(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Returns the images per second of each setting, quiet and busy."""
    context = multiprocessing.get_context("spawn")
    pipes, before = dict[str, Connection](), dict(os.environ)
    for setting in SETTINGS:
        os.environ.clear()
        os.environ.update(environment(setting))
        pipes[setting], there = context.Pipe()
        context.Process(target=train, args=(arguments, there), daemon=True).start()
        there.close()
    os.environ.clear()
    os.environ.update(before)
    found: dict[str, tuple[list[float], ...]] = {setting: tuple([] for _ in LOADS) for setting in SETTINGS}
    for turn in range(arguments.turns + 1):
        for index, load in enumerate(LOADS):
            with load():
                for setting, pipe in pipes.items():
                    pipe.send(arguments.seconds)
                    speed = pipe.recv()
                    if turn:
                        found[setting][index].append(speed)
    for pipe in pipes.values():
        pipe.send(None)
    return {setting: [statistics.median(each) for each in both] for setting, both in found.items()}


def results(setting: str, load: Any) -> tuple[float, float, dict[str, Any]]:
    """Makes all results beside a load.

    Returns the seconds of it, those of the CPU without the load, and what must not depend on it: numbers and weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": folder}
        start, before = time.perf_counter(), cpu_seconds()
        with load():
            for command in COMMANDS:
                subprocess.run(
                    [sys.executable, "-m", *command], cwd=folder, env=environment(setting) | own, check=True,
                    stdout=sys.stderr,
                )  # fmt: skip
            seconds, of_cpu = time.perf_counter() - start, cpu_seconds() - before
        scores = Path(folder, "build/scores")
        records = {str(path.relative_to(scores)): json.loads(path.read_text()) for path in scores.rglob("*.json")}
    return seconds, of_cpu, {name: (record["metrics"], record["files"]) for name, record in records.items()}


def cpu_seconds() -> float:
    """Returns the CPU's seconds of all processes that this one has started and that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    """Takes the turns and prints the table, or makes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=12)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--suite", nargs="+", choices=SETTINGS, default=[])
    arguments = parser.parse_args()
    print(f"{cpu_name()}, {cores()} cores, float32")
    if arguments.suite:
        first: dict[str, Any] | None = None
        for setting in arguments.suite:
            (quiet, quiet_cpu, numbers), (loaded, loaded_cpu, others) = (results(setting, load) for load in LOADS)
            first = first or numbers
            same = "the same" if first == numbers == others else "OTHER"
            times = f"{quiet:.0f} s quiet, {loaded:.0f} s busy ({loaded / quiet:.2f}x)"
            times += f", of the CPU {quiet_cpu:.0f} s and {loaded_cpu:.0f} s ({loaded_cpu / quiet_cpu:.2f}x)"
            print(f"  {setting}: {times}, {same} numbers and weights of {len(numbers)} runs", flush=True)
        return
    medians = speeds(arguments)
    print(f"{arguments.model}, width {arguments.width}, {arguments.size}x{arguments.size}, batches of 64: images/s")
    for setting, (quiet, loaded) in medians.items():
        base = medians[ONE][0]
        threads = f"({SETTINGS[setting]['OMP_NUM_THREADS']})"
        print(
            f"  {setting + ' ' + threads:<22} quiet {quiet:>7,.0f} ({quiet / base:.2f}x)"
            f"  busy {loaded:>7,.0f} ({loaded / base:.2f}x)  busy / quiet {loaded / quiet:.2f}"
        )


if __name__ == "__main__":
    main()
