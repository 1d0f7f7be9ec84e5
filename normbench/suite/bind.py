"""The stage `bind`: one small JSON for each task that describes the content of the task's dataset.

In dvc.yaml a stage cannot refer to the dataset of its task; it depends on this file instead (see docs/design.md). So a
new dataset leaves the other tasks as they are.
"""

from __future__ import annotations

from normbench.data.bound import Corrupted
from normbench.models import registry as models
from normbench.models.trial import size_problem
from normbench.runs.run import Kind
from normbench.suite import resolved
from normbench.suite.runs import adopt_outputs, bound_dataset
from normbench.suite.suite import SECTIONS, Suite
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.size import sides


def bind() -> None:
    """Write, for every task of the suite, what its dataset and its corrupted images hold."""
    suite = Suite.resolved()
    adopt_outputs(suite)
    with files.atomic_folder(layout.BOUND) as folder:
        for kind in Kind:
            for name in suite.of_kind(kind)[0]:
                task = resolved.task(kind, name)
                bound = bound_dataset(task.dataset)
                model, size = models.get(task.model), sides(bound.image_size)
                unfit = size_problem(model, task.model_options, *size, bound.channels)
                if unfit:
                    raise UserError(f"{layout.PARAMS}: {SECTIONS[kind]}.{name}.model = {task.model!r}: {unfit}")
                bound.write(folder / f"{name}.json")
                corrupted_images(task.dataset).write(folder / f"{name}.corrupted.json")


def corrupted_images(dataset: str) -> Corrupted:
    """Returns the facts about the corrupted test images of a dataset."""
    folder = layout.CORRUPTED / dataset
    return Corrupted.model_validate({"path": str(folder), **files.read_json(folder / "meta.json")})
