"""A variant: a named method with its options, and the values that a study has chosen for it on some tasks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from normbench.runs.tasks import AnyTask
from normbench.system.schema import NotNegativeReal, Positive, PositiveReal, Strict
from normbench.training.task import Task


class Tuned(Strict):
    """Values that `normbench tune` has chosen for a task, in the place of those of its recipe and of the variant.

    options: of the method. study: the id of the study that chose them. trials: the number of trials, of which theirs
    was the best.
    """

    lr: PositiveReal
    weight_decay: NotNegativeReal
    options: dict[str, Any] = {}
    study: str = Field(min_length=1)
    trials: Positive

    @property
    def chosen(self) -> dict[str, Any]:
        """All values by name."""
        return {"lr": self.lr, "weight_decay": self.weight_decay, **self.options}


class VariantEntry(Strict):
    """An entry under `variants` in params.yaml.

    method: the name of a file in normbench/methods, `path/to/file.py:Class` or `package.module:Class`. apply_to: the
    networks of a GAN to which the method applies, `discriminator`, `generator` or `both`. tuned: by the name of a task.
    """

    method: str
    options: dict[str, Any] = {}
    apply_to: Literal["discriminator", "generator", "both"] = "discriminator"
    tuned: dict[str, Tuned] = {}


class Variant(VariantEntry):
    """A resolved variant: its name, all options of its method with their values, and the digest of the method.

    The variant of a run has in `tuned` only what was applied: nothing, or the entry of the run's task.
    """

    name: str
    method_code: str

    def identity(self) -> dict[str, Any]:
        """Returns the part of the variant that enters a run's id: the options and the code, but no name or path.

        `apply_to` is in it only where it is not the default, so that runs of the time before there was such a key keep
        theirs.
        """
        where = {} if self.apply_to == "discriminator" else {"apply_to": self.apply_to}
        return {"options": self.options, "method_code": self.method_code} | where

    def on(self, task: AnyTask) -> tuple[AnyTask, Variant]:
        """Returns a task and this variant as they are trained together, with the values that were tuned for it."""
        chosen = self.tuned.get(task.name) if isinstance(task, Task) else None
        if chosen is None or not isinstance(task, Task):
            return task, self.model_copy(update={"tuned": {}})
        recipe = task.recipe.model_copy(update={"lr": chosen.lr, "weight_decay": chosen.weight_decay})
        options = self.options | chosen.options
        return (
            task.model_copy(update={"recipe": recipe}),
            self.model_copy(update={"options": options, "tuned": {task.name: chosen}}),
        )

    @property
    def applied(self) -> Tuned | None:
        """Of the variant of a run: the tuned values that were applied, or None."""
        return next(iter(self.tuned.values()), None)
