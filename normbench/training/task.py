"""A task: a dataset, an architecture and a training recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from normbench.data.labels import LabelNoise
from normbench.system.schema import Seed, Strict
from normbench.training.recipe import Recipe


class TaskEntry(Strict):
    """An entry under `tasks` in params.yaml.

    dataset, model: names, or for models references to files (see `normbench.models.base.get`). model_options: the
    model's options that differ from their defaults. label_noise: wrong training labels, or null. train_fraction: the
    fraction of each class's training images that is used; a smaller fraction uses a subset of a larger one.
    """

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: Recipe
    label_noise: LabelNoise | None = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class Task(TaskEntry):
    """A task after params.yaml has been resolved, with all options of its model filled in.

    name: its key under `tasks`. seed: the suite's seed. seeds: the seeds of its runs. model_code: the digest of the
    code that defines its model. loss_code: that of the training with the recipe's loss, or null without one.
    """

    name: str
    seed: Seed
    seeds: list[Seed]
    model_code: str
    loss_code: str | None = None

    def identity(self) -> dict[str, Any]:
        """The fields that affect a run's outcome, and so its id: all but names, references and the list of seeds.

        `deterministic`, `loss`, `replicas` and the keys of a resized crop are in it only where they are set, so that
        runs of the time before there were such keys keep theirs.
        """
        unset = {key for key in ("deterministic", "loss") if not getattr(self.recipe, key)}
        unset |= {"replicas"} if self.recipe.replicas == 1 else set()
        unset |= {"crop", "crop_scale", "crop_ratio"} if self.recipe.crop == "padded" else {"crop_padding"}
        unnamed = {"name": True, "seeds": True, "dataset": True, "model": True}
        unnamed |= {} if self.loss_code else {"loss_code": True}
        return self.model_dump(mode="json", exclude=unnamed | {"recipe": unset})
