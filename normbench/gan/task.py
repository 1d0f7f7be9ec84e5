"""A GAN task: a dataset, a pair of networks and a training recipe."""

from __future__ import annotations

from typing import Any

from normbench.data.bound import Bound
from normbench.gan.recipe import GanRecipe
from normbench.system.schema import Seed, Strict


class GanTaskEntry(Strict):
    """An entry under `gan_tasks` in params.yaml.

    The normalization method of a variant applies to what its `apply_to` says, the discriminator if it says nothing.
    conditional: whether both networks are given the class of each image; generated images have every class as often.
    """

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    conditional: bool = False
    recipe: GanRecipe


class GanTask(GanTaskEntry):
    """A GAN task after params.yaml has been resolved, with the additional fields of `normbench.training.task.Task`."""

    name: str
    seed: Seed
    seeds: list[Seed]
    model_code: str

    def identity(self) -> dict[str, Any]:
        """The fields that affect a run's outcome, and so its id: all but names, the list of seeds and `fid_samples`.

        Keys that were added later are in it only where they are set (see `normbench.training.task.Task`).
        """
        exclude: dict[str, Any] = {"name": True, "seeds": True, "dataset": True, "model": True}
        exclude |= {"recipe": {"fid_samples", *self.recipe.unset()}}
        exclude |= {} if self.conditional else {"conditional": True}
        return self.model_dump(mode="json", exclude=exclude)

    def classes(self, bound: Bound) -> int | None:
        """The number of classes that the networks are given; None if they are given none."""
        return bound.classes if self.conditional else None
