"""A GAN task: a dataset, a pair of networks and a training recipe."""

from __future__ import annotations

from typing import Any

from normbench.gan.recipe import GanRecipe
from normbench.system.schema import Strict


class GanTaskEntry(Strict):
    """An entry under `gan_tasks` in params.yaml.

    The method of a variant is put into the discriminator; the generator has batch norm, as usual.
    """

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: GanRecipe


class GanTask(GanTaskEntry):
    """A GAN task as resolved, with the same additions as `normbench.training.task.Task`."""

    name: str
    seed: int
    seeds: list[int]
    model_code: str

    def identity(self) -> dict[str, Any]:
        """What of the task shapes a run of it: everything but names and the list of seeds."""
        return self.model_dump(
            mode="json",
            exclude={"name": True, "seeds": True, "dataset": True, "model": True, "recipe": {"fid_samples"}},
        )
