"""A run: one task, one variant, one seed; its id is a hash of everything that shapes its outcome."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from normbench.data.bound import Bound
from normbench.gan.task import GanTask
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Variant
from normbench.system import files, layout


class Kind(StrEnum):
    """What a run trains: a classifier, a network of segmentation or a GAN."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"
    GAN = "gan"


class Status(StrEnum):
    """How a run ended. A run diverges if a loss or a weight is not finite."""

    FINISHED = "finished"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Run:
    """A run that is to be trained.

    bound: its dataset. code: the digest of the training code of its kind (see `normbench.suite.code`). title: its name
    in the display of progress.
    """

    kind: Kind
    task: AnyTask
    variant: Variant
    seed: int
    bound: Bound
    code: str
    title: str = ""

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits: a hash of everything that shapes the outcome.

        It covers the task's settings, the model's code, the method's options and code, the content and normalization of
        the dataset, the seed, and the training code. It does not cover names, paths, the device and versions, which are
        in the record: a run that another machine has made counts as the same run here.
        """
        made_of = {
            "kind": self.kind,
            "task": self.task.identity(),
            "variant": self.variant.identity(),
            "dataset": self.bound.identity(normalized=self.kind is not Kind.GAN),
            "seed": self.seed,
            "code": self.code,
        }
        if isinstance(self.task, GanTask) and self.task.conditional:
            made_of["classes"] = self.bound.classes
        return files.hash_of(made_of)[:16]

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.task.name, self.variant.name, self.seed

    @property
    def cell(self) -> tuple[Kind, str, str]:
        """Kind, task and variant: what all seeds of one stage share."""
        return self.kind, self.task.name, self.variant.name

    @property
    def steps(self) -> int:
        """The length of the training: iterations of a GAN, epochs of others."""
        return self.task.recipe.iterations if isinstance(self.task, GanTask) else self.task.recipe.epochs

    @property
    def linked(self) -> Path:
        """The folder into which the run's stage copies it for later stages."""
        return OUTPUTS[self.kind] / self.task.name / self.variant.name / str(self.seed)


# The output folders of the training stages, and the folders of build/scores. Tasks of classification and segmentation
# stand in one section of params.yaml, so that they have different names, and the same stages train and score them.
OUTPUTS = {Kind.CLASSIFICATION: layout.TRAINED, Kind.SEGMENTATION: layout.TRAINED, Kind.GAN: layout.GENERATED}
SCORED_IN = {
    Kind.CLASSIFICATION: layout.SCORES / "classification",
    Kind.SEGMENTATION: layout.SCORES / "classification",
    Kind.GAN: layout.SCORES / "gan",
}
UNITS = {Kind.CLASSIFICATION: "epoch", Kind.SEGMENTATION: "epoch", Kind.GAN: "iteration"}  # the unit of `Run.steps`
FID_FEATURES = "fid-features"  # name of the task that trains the classifier for the FID; no suite contains it
