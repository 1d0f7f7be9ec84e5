"""A GAN task: a dataset, a pair of networks and a training recipe."""

from __future__ import annotations

from typing import Any

from normbench.gan.recipe import GanRecipe
from normbench.system.schema import Seed, Strict


class GanTaskEntry(Strict):
    """An entry under `gan_tasks` in params.yaml.

    The normalization method of a variant applies to the discriminator only; the generator always has batch norm.
    """

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: GanRecipe


class GanTask(GanTaskEntry):
    """A GAN task after params.yaml has been resolved, with the additional fields of `normbench.training.task.Task`."""

    name: str
    seed: Seed
    seeds: list[Seed]
    model_code: str

    def identity(self) -> dict[str, Any]:
        """The fields that affect a run's outcome, and so its id: all but names, the list of seeds and `fid_samples`.

        `deterministic` is in it only where it is set (see `normbench.training.task.Task`).
        """
        unset = {"fid_samples"} if self.recipe.deterministic else {"fid_samples", "deterministic"}
        unnamed = {"name": True, "seeds": True, "dataset": True, "model": True}
        return self.model_dump(mode="json", exclude=unnamed | {"recipe": unset})
