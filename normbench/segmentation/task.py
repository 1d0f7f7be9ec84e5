"""A segmentation task: a dataset with masks, an architecture and a training recipe."""

from __future__ import annotations

from typing import Any, Literal

from normbench.segmentation.recipe import SegmentationRecipe
from normbench.system.schema import Seed, Strict


class SegmentationTaskEntry(Strict):
    """An entry under `tasks` in params.yaml with `kind: segmentation`; the other keys are those of `TaskEntry`."""

    kind: Literal["segmentation"]
    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: SegmentationRecipe


class SegmentationTask(SegmentationTaskEntry):
    """A segmentation task after params.yaml has been resolved, with the fields of `normbench.training.task.Task`."""

    name: str
    seed: Seed
    seeds: list[Seed]
    model_code: str

    def identity(self) -> dict[str, Any]:
        """The fields that affect a run's outcome, and so its id: all but names, references and the list of seeds."""
        unnamed = {"name": True, "seeds": True, "dataset": True, "model": True, "kind": True}
        unset = set() if self.recipe.deterministic else {"deterministic"}
        return self.model_dump(mode="json", exclude=unnamed | {"recipe": unset})
