"""A task: a dataset, an architecture and a training recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from normbench.data.labels import LabelNoise
from normbench.system.schema import Strict
from normbench.training.recipe import Recipe


class TaskEntry(Strict):
    """An entry under `tasks` in params.yaml.

    train_fraction: the part of the images of each class that is trained on; smaller sets lie inside larger ones.
    """

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: Recipe
    label_noise: LabelNoise | None = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class Task(TaskEntry):
    """A task as resolved: with its name, the suite's seed and run seeds, all options of its model, and the digest of
    the code behind that model."""

    name: str
    seed: int
    seeds: list[int]
    model_code: str

    def identity(self) -> dict[str, Any]:
        """What of the task shapes a run of it. Names do not, wherever the model lies, nor does the list of seeds: a
        renamed task keeps its runs."""
        return self.model_dump(mode="json", exclude={"name", "seeds", "dataset", "model"})
