"""The stages `train` and `gan`: train the seeds of a task and variant that the run store does not have."""

from __future__ import annotations

import functools

from normbench.data import prepared
from normbench.data.bound import Bound
from normbench.runs import store
from normbench.runs.run import OUTPUTS, Kind, Run
from normbench.runs.train import claim_and_train
from normbench.suite import resolved
from normbench.suite.runs import STAGES
from normbench.suite.suite import Suite
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.side_by_side import side_by_side


def train_classifiers(task: str, variant: str) -> None:
    """Train every seed of a task and variant."""
    complete(Kind.CLASSIFICATION, task, variant)


def train_gans(task: str, variant: str) -> None:
    """Train every seed of a GAN task and variant."""
    complete(Kind.GAN, task, variant)


def complete(kind: Kind, task_name: str, variant_name: str) -> None:
    """Trains the missing seeds of a task and variant, and copies the runs of all its seeds into the stage's output."""
    task, variant = resolved.task(kind, task_name), resolved.variant(variant_name)
    bound = Bound.read(layout.BOUND / f"{task_name}.json")
    code, device = resolved.digest(STAGES[kind]), devices.choose()
    runs = [
        Run(kind, task, variant, seed, bound, code, _title(kind, task_name, variant_name, seed)) for seed in task.seeds
    ]
    todo = []
    for run in runs:
        if store.finished(run.id):
            print(f"{run.title}: finished before, taken from {store.folder(run.id)}", flush=True)
            store.forget(run.id)
        else:
            todo.append(run)
    if todo:
        devices.prepare(device)  # It imports much of torch, once for all processes that are forked.
        data = functools.cache(lambda: prepared.load(bound, device))
        side_by_side([functools.partial(claim_and_train, run, data) for run in todo], device, task.recipe.threads)
    with files.atomic_folder(OUTPUTS[kind] / task_name / variant_name) as folder:
        for run in runs:
            store.fetch(run.id, folder / str(run.seed))


def _title(kind: Kind, task: str, variant: str, seed: int) -> str:
    """Returns e.g. `train digits-resnet8 batch_norm seed 1, run 2 of 30`; no number if the suite lacks the run."""
    names = Suite.resolved().names()
    name = (kind, task, variant, seed)
    place = f", run {names.index(name) + 1} of {len(names)}" if name in names else ""
    return f"{STAGES[kind]} {task} {variant} seed {seed}{place}"
