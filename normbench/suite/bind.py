"""The stage `bind`: one small JSON for each task that describes the content of the task's dataset.

In dvc.yaml a stage cannot refer to the dataset of its task; it depends on this file instead (see docs/design.md). So a
new dataset leaves the other tasks as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from normbench.data import intact
from normbench.data.bound import Bound
from normbench.models import registry as models
from normbench.models.trial import size_problem
from normbench.runs.run import Kind
from normbench.suite import feasible, resolved, trial
from normbench.suite.runs import adopt_outputs, bound_dataset
from normbench.suite.suite import SECTIONS, Suite
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.size import sides
from normbench.system.text import say


def bind() -> None:
    """Write, for every task of the suite, what its dataset and its corrupted images hold.

    It also tries each variant on the shape of the images (see `normbench.suite.trial`), as the training follows. Raises
    UserError, with one line for each, for settings of tasks that do not fit their datasets.
    """
    suite = Suite.resolved()
    adopt_outputs(suite)
    bounds = checked(suite)
    for note in trial.check(trial.of_files(suite)):
        say(f"note: {note}")
    write(bounds)


def write(bounds: Mapping[str, Bound]) -> None:
    """Writes the files of the stage's output. bounds: the dataset of each task, by its name."""
    with files.atomic_folder(layout.BOUND) as folder:
        for task, bound in bounds.items():
            corrupted = intact.corrupted_meta(bound.name)
            if corrupted.source_fingerprint != bound.fingerprint:
                raise UserError(f"{corrupted.path}: is not of the dataset as it is now; `dvc repro` makes it again")
            intact.check_corrupted(corrupted)
            bound.write(folder / f"{task}.json")
            corrupted.write(folder / f"{task}.corrupted.json")


def checked(suite: Suite) -> dict[str, Bound]:
    """Returns the dataset of each task. Raises UserError, with one line for each, for tasks that do not fit theirs."""
    found: dict[str, Bound] = {}
    problems: list[str] = []
    evaluation = resolved.evaluation()
    for kind in Kind:
        names, variants = suite.of_kind(kind)
        for name in names:
            task = resolved.task(kind, name)
            bound = found[name] = bound_dataset(task.dataset)
            intact.check_bound(bound)
            model, size = models.get(task.model), sides(feasible.trained_size(task, bound.image_size))
            unfit = size_problem(model, task.model_options, *size, bound.channels)
            if unfit:
                problems.append(f"{layout.PARAMS}: {SECTIONS[kind]}.{name}.model = {task.model!r}: {unfit}")
            else:
                problems += feasible.problems(kind, task, bound, map(resolved.variant, variants), evaluation)
    if problems:
        raise UserError(*problems)
    return found
