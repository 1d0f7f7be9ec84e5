"""`normbench tune`: chooses learning rate, weight decay and options of each variant by the same number of trials."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

import numpy as np

from normbench.data import intact
from normbench.data.bound import Bound, Validation
from normbench.data.labels import validation_split
from normbench.methods import registry as methods
from normbench.runs import checkpoint, store
from normbench.runs.run import Kind, Run
from normbench.suite import runs, trial
from normbench.suite.resolve import resolve
from normbench.suite.resolved import Resolved
from normbench.sweep import command, local
from normbench.system import device as devices
from normbench.system import layout, preemption
from normbench.system.errors import UserError, hint
from normbench.system.narrowing import narrowed
from normbench.system.seeds import derive
from normbench.system.text import say
from normbench.training.task import Task
from normbench.tuning import space
from normbench.tuning.study import Study, Trials
from normbench.tuning.write import write


def tune(variants: Sequence[str], tasks: Sequence[str], trials: int, jobs: int | None, fraction: float) -> None:
    """Runs a study of each variant on each task, and writes what is best into params.yaml.

    variants, tasks: names of the suite; none for all of it. trials: of each study. jobs: the number of parallel runs;
    None for as many as fit. fraction: of the training images that are held out. Trials that are finished are not
    repeated. Exits with code 1 if a trial failed, and with 75 or 130 if it was interrupted; a complete study is written
    even if another one failed. Raises UserError if an argument is not valid.
    """
    preemption.watch()
    if trials < 1:
        raise UserError(f"--trials {trials}: must be at least 1")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: must be at least 1")
    if not 0 < fraction < 1:
        raise UserError(f"--validation {fraction:g}: must be above 0 and below 1")
    resolved = resolve()
    masked = next((name for name in tasks if name in resolved.suite.segmentation), None)
    if masked is not None:
        raise UserError(f"--task {masked}: is a task of segmentation, and only classifiers are tuned")
    chosen = [
        names(option, given, known)
        for option, given, known in (
            ("--task", tasks, resolved.suite.of_kind(Kind.CLASSIFICATION)[0]),
            ("--variant", variants, resolved.suite.variants),
        )
    ]
    trial.check(trial.of_params(resolved))
    checkpoint.interval()
    command.prepare(resolved)
    studies = [study(resolved, task, variant, fraction) for task in chosen[0] for variant in chosen[1]]
    with contextlib.ExitStack() as stack:
        # Always in one order, so that two commands do not wait for each other; and variants that are equal have one.
        by_id = {each.id: each for each in studies}
        opened = {key: stack.enter_context(by_id[key].opened()) for key in sorted(by_id)}
        codes = train([opened[key] for key in by_id], trials, jobs)
        complete = [(each, opened[each.id]) for each in studies if not opened[each.id].missing(trials)]
        if complete:
            write(layout.PARAMS, {(each.variant.name, each.task.name): made.tuned(trials) for each, made in complete})
            tell(complete, trials)
    if codes - {0}:
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)


def names(option: str, given: Sequence[str], known: list[str]) -> list[str]:
    """The names that were given, each once; all that are known if there are none. Raises UserError for another one."""
    for name in given:
        if name not in known:
            raise UserError(f"{option} {name}: not in the suite; {hint(name, known)}")
    if not known:
        raise UserError("the suite has no classifiers to tune")
    return list(dict.fromkeys(given)) or known


def study(resolved: Resolved, task_name: str, variant_name: str, fraction: float) -> Study:
    """The study of a variant on a task, without what was tuned before."""
    task = narrowed(resolved.tasks[Kind.CLASSIFICATION][task_name], Task, f"task {task_name}")
    variant = resolved.variants[variant_name].model_copy(update={"tuned": {}})
    held_out = Validation(fraction=fraction, seed=derive(task.seed, "validation"))
    bound = without_test(runs.bound_dataset(task.dataset), held_out)
    code = resolved.training_digest(Kind.CLASSIFICATION)
    return Study(task, variant, bound, task.seeds[0], code, space.axes(methods.method_class(variant.method)))


def without_test(bound: Bound, validation: Validation) -> Bound:
    """A dataset whose held-out training images take the place of the test images, which nothing reads then."""
    labels = np.load(f"{bound.path}/train_labels.npy")
    kept, held_out = validation_split(labels, validation.fraction, validation.seed)
    if not len(held_out):
        raise UserError(f"dataset {bound.name}: --validation {validation.fraction:g} leaves no image to measure on")
    return bound.model_copy(update={"validation": validation, "train": len(kept), "test": len(held_out)})


def train(studies: list[Trials], count: int, jobs: int | None) -> set[int]:
    """Trains what is missing of the first trials, side by side, and stores their outcomes as they come.

    Returns the exit codes of the processes.
    """
    todo: list[Run] = []
    owners: dict[str, list[tuple[Trials, int]]] = {}
    for trials in studies:
        missing = trials.missing(count)
        say(f"study {trials.study.id}, {trials.study.name}: {count - len(missing)} of {count} trials finished")
        for number in missing:
            run = trials.study.run(number)
            if run.id not in owners:
                todo.append(run)
            owners.setdefault(run.id, []).append((trials, number))
    done = functools.partial(keep, owners)
    for run in todo:
        if store.sound(run.id):
            done(run)
    todo = [run for run in todo if owners[run.id]]
    if not todo:
        return set()
    for bound in {run.bound.path: run.bound for run in todo}.values():
        intact.check_bound(bound)
    device = devices.choose()
    return local.train_all(todo, jobs or command.fitting(todo, device), device, done)


def keep(owners: dict[str, list[tuple[Trials, int]]], run: Run) -> None:
    """Stores the outcome of a finished run in its studies, which need nothing else of it, and removes the run."""
    record = store.record(run.id)
    while owners[run.id]:
        trials, number = owners[run.id].pop()
        trials.add(number, record)
    store.discard(run.id)


def tell(complete: list[tuple[Study, Trials]], count: int) -> None:
    """Prints what was chosen."""
    for study, trials in complete:
        best = trials.best(count)
        values = ", ".join(f"{name} {each}" for name, each in study.point(best).items())
        accuracy = f"validation accuracy {trials.values[best]:.4f}"
        say(f"{study.name}: of trials 0 to {count - 1}, {best} is the best, {accuracy}: {values}")
    say(f"{layout.PARAMS} has these values now: `make results` trains with them")
