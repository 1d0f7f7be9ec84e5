"""The stages `train` and `gan`: train the seeds of a task and variant that the run store does not have."""

from __future__ import annotations

import functools

from normbench.data import intact
from normbench.data.bound import Bound
from normbench.runs import images, store
from normbench.runs.run import OUTPUTS, Kind, Run
from normbench.runs.train import claim_and_train
from normbench.suite import code, resolved
from normbench.suite.suite import TRAINING_STAGES, Suite
from normbench.system import device as devices
from normbench.system import files, layout, ranks
from normbench.system.errors import UserError
from normbench.system.side_by_side import side_by_side
from normbench.system.text import say


def train_tasks(task: str, variant: str) -> None:
    """Train every seed of a task and variant, with as many processes as NORMBENCH_RANKS says or torchrun starts."""
    if not ranks.started("stages.train", "--task", task, "--variant", variant):
        complete(Suite.resolved().kind_of(task), task, variant)


def train_gans(task: str, variant: str) -> None:
    """Train every seed of a GAN task and variant."""
    complete(Kind.GAN, task, variant)


def complete(kind: Kind, task_name: str, variant_name: str) -> None:
    """Trains the missing seeds of a task and variant, and copies the runs of all its seeds into the stage's output."""
    task, variant = resolved.variant(variant_name).on(resolved.task(kind, task_name))
    bound = Bound.read(layout.BOUND / f"{task_name}.json")
    digest, device = resolved.training_digest(kind), devices.choose()
    titles = {seed: _title(kind, task_name, variant_name, seed) for seed in task.seeds}
    runs = [Run(kind, task, variant, seed, bound, digest, title) for seed, title in titles.items()]
    with ranks.together(device):
        missing = ranks.first_only(lambda: [not there(run) for run in runs])
        todo = [run for run, lacks in zip(runs, missing, strict=True) if lacks]
        if todo:
            problem = code.problem(todo[0])
            if problem:
                raise UserError(f"{problem}; `dvc repro` or `python -m stages.resolve` does so")
            intact.check_bound(bound)
            devices.prepare(device)
            devices.preload()
            data = functools.cache(lambda: images.load(bound, device))
            side_by_side([functools.partial(claim_and_train, run, data) for run in todo], device, task.recipe.threads)
    if ranks.rank() > 0:
        return
    with files.atomic_folder(OUTPUTS[kind] / task_name / variant_name) as folder:
        for run in runs:
            store.fetch(run.id, folder / str(run.seed))


def there(run: Run) -> bool:
    """Whether a run is in the store, which is said then."""
    if not store.sound(run.id):
        return False
    say(f"{run.title}: finished before, taken from {store.folder(run.id)}")
    store.forget(run.id)
    return True


def _title(kind: Kind, task: str, variant: str, seed: int) -> str:
    """Returns e.g. `train digits-resnet8 batch_norm seed 1, run 2 of 30`; no number if the suite lacks the run."""
    names = Suite.resolved().names()
    name = (kind, task, variant, seed)
    place = f", run {names.index(name) + 1} of {len(names)}" if name in names else ""
    return f"{TRAINING_STAGES[kind]} {task} {variant} seed {seed}{place}"
