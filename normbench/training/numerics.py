"""Precision and memory format of a training: as the recipe says, else by rule on a GPU, and by a stopwatch on a CPU.

Which of them is faster on a CPU depends on it: bfloat16 takes half the time of float32 where there are instructions for
its products, and far more elsewhere. Both change the bits of a result, and the precision is a part of the comparison.
So a task has one choice for all its variants: it is measured once, on the network of the task with batch norm, and kept
in the run store (`numerics/`), where every later run of the task finds it. The record of each run has it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from normbench.runs import provenance
from normbench.runs.run import Run
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system import side_by_side as jobs
from normbench.system.device import Numerics, by_rule
from normbench.system.errors import UserError

ADVANTAGE = 1.25  # by which something else has to beat the rule: less would make bits depend on noise, and gain little
ROUNDS, SECONDS = 5, 10.0  # of the stopwatch: rounds over all candidates, fewer where so much time has gone by
HOPELESS = 3.0  # a candidate whose first step takes so many times as long as the rule's is measured no more

Times = dict[str, float]  # seconds of a training step, by `precision memory_format`


def candidates(recipe: dict[str, Any], model: torch.nn.Module) -> list[tuple[str, str]]:
    """Precisions and memory formats that are to be measured on the CPU, that of the rule first."""
    precisions, formats = [recipe["precision"]], [recipe["memory_format"]]
    if precisions == ["auto"]:
        precisions = ["float32", "bfloat16"] if devices.has_bfloat16("cpu") else ["float32"]
    if formats == ["auto"]:
        formats = ["channels_last", "contiguous"]
    formats = list(dict.fromkeys(devices.memory_format_name(model, "cpu", name) for name in formats))
    return [(precision, name) for precision in precisions for name in formats]


@dataclass(frozen=True)
class Machine:
    """Where runs are trained: its CPU, its version of torch, and a stopwatch, which takes the times of steps of a run
    with so many threads, and none where it cannot."""

    cpu: str
    torch: str
    measure: Callable[[Run, int], Times]


def this_machine() -> Machine:
    return Machine(provenance.cpu_name(), torch.__version__, apart)


def settled(todo: list[Run], kind: str, threads: int, machine: Callable[[], Machine] = this_machine) -> list[Run]:
    """The runs, those of classifiers on a CPU with their `numerics`, which are measured where the store has none yet.

    On a GPU runs go by the rule, where they are trained. threads: that a run has. machine: asked where it is needed.
    """
    found: dict[str, Numerics] = {}
    there = functools.cache(machine)
    out = []
    for run in todo:
        recipe = run.task["recipe"]
        if kind == "cpu" and run.kind == "classification" and "auto" in (recipe["precision"], recipe["memory_format"]):
            key = files.hash_of(facts(run, threads, there()))[:16]
            if key not in found:
                found[key] = measured(run, threads, there(), key)
            run = dataclasses.replace(run, numerics=found[key])
        out.append(run)
    return out


def facts(run: Run, threads: int, machine: Machine) -> dict[str, Any]:
    """What a measurement depends on."""
    return {
        "model": run.task["model"],
        "model_options": run.task["model_options"],
        "model_code": run.task["model_code"],
        "recipe": {key: run.task["recipe"][key] for key in ("batch_size", "precision", "memory_format")},
        "images": {key: run.bound[key] for key in ("channels", "classes", "image_size")},
        "cpu": machine.cpu,
        "torch": machine.torch,
        "threads": threads,
    }


def kept(path: Path) -> Numerics | None:
    """The choice that was made before. Raises UserError where the file holds none."""
    if not path.is_file():
        return None
    try:
        content = files.read_json(path)
        return Numerics(content["precision"], content["memory_format"], content["step_seconds"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; without it, the precision is measured again") from None


def measured(run: Run, threads: int, machine: Machine, key: str) -> Numerics:
    """The choice that the store keeps under a key, measured first where there is none; without times, the rule's."""
    path, lock = layout.store() / "numerics" / f"{key}.json", layout.store() / "locks" / f"numerics-{key}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # other processes may want to measure the same
        before = kept(path)
        if before is not None:
            return before
        chosen = choice(machine.measure(run, threads), by_rule(run.task["recipe"], "cpu"))
        if chosen.step_seconds is None:
            print(f"{run.name[0]} trains in {chosen} here, as steps could not be measured", flush=True)
            return chosen
        times = ", ".join(f"{1000 * seconds:.3g} ms in {name}" for name, seconds in chosen.step_seconds.items())
        print(f"{run.name[0]} trains in {chosen} here (a step takes {times})", flush=True)
        files.write_json(path, facts(run, threads, machine) | dataclasses.asdict(chosen))
    return chosen


def choice(times: Times, rule: Numerics) -> Numerics:
    """The fastest candidate, where it clearly beats the first, which is the rule's unless the network forbids that."""
    if not times:
        return rule
    first = next(iter(times))
    best = min(times, key=lambda name: times[name])
    precision, memory_format = (best if times[first] >= ADVANTAGE * times[best] else first).split()
    return Numerics(precision, memory_format, times)


def apart(run: Run, threads: int) -> Times:
    """`step_times` in a process of its own, as this one may have to be forked later; none where that one is lost."""
    try:
        return jobs.apart(lambda: step_times(run.task, run.bound, threads))
    except jobs.Lost:
        return {}


def step_times(task: dict[str, Any], bound: dict[str, Any], threads: int) -> Times:
    """The least seconds of a training step on the CPU in each candidate, for the network of a task with batch norm.

    Candidates take turns. One that fails is left out, as are all where the network itself cannot be trained.
    """
    from normbench.methods import registry as methods
    from normbench.models import registry as models
    from normbench.training import loop

    torch.set_num_threads(threads)
    devices.prepare("cpu")
    began = time.perf_counter()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        method, recipe = methods.build("batch_norm", {}), task["recipe"]
        model = models.classifier(task["model"], task["model_options"], method, bound["channels"], bound["classes"])
        x = torch.randn(recipe["batch_size"], bound["channels"], bound["image_size"], bound["image_size"])
        y = torch.randint(bound["classes"], (len(x),))
        optim = loop.optimizer(model.train(), method, recipe)

        def seconds(precision: str, memory_format: str) -> float:
            model.to(memory_format=devices.FORMATS[memory_format])
            images = x.contiguous(memory_format=devices.FORMATS[memory_format])
            start = time.perf_counter()
            loss, _ = loop.step_loss(model, model, method, images, y, recipe | {"precision": precision}, "cpu")
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            return time.perf_counter() - start

        first: Times = {}
        for candidate in candidates(recipe, model):
            try:
                first[" ".join(candidate)] = seconds(*candidate)
            except RuntimeError:  # no memory, or an operation that the precision does not have
                continue
        hope = {name: value for name, value in first.items() if value <= HOPELESS * next(iter(first.values()))}
        times = dict.fromkeys(hope, float("inf"))
        for number in range(ROUNDS):
            if number and time.perf_counter() - began > SECONDS:
                break
            for name in times:
                times[name] = min(times[name], seconds(*name.split()))
    return times
