"""A run: one task, one variant, one seed; its id is a hash of everything that shapes its outcome."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from normbench.data.bound import Bound
from normbench.gan.task import GanTask
from normbench.runs.variant import Variant
from normbench.system import files, layout
from normbench.training.task import Task


class Kind(StrEnum):
    """What a run trains."""

    CLASSIFICATION = "classification"
    GAN = "gan"


class Status(StrEnum):
    """How a run ended. A run with a loss or weight that is not finite has diverged."""

    FINISHED = "finished"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Run:
    """A run to train.

    code: the digest of the training code of its kind (see `normbench.suite.code`). title: what progress calls it.
    """

    kind: Kind
    task: Task | GanTask
    variant: Variant
    seed: int
    bound: Bound
    code: str
    title: str = ""

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits.

        Into it go the task's settings, the model's code, the method's options and code, the dataset's content and
        normalization, the seed, and the training code. Names, paths, the device and versions stay out: they stand in
        the record, so that a run made on another machine is the same run here.
        """
        made_of = {
            "kind": self.kind,
            "task": self.task.identity(),
            "variant": self.variant.identity(),
            "dataset": self.bound.identity(),
            "seed": self.seed,
            "code": self.code,
        }
        return files.hash_of(made_of)[:16]

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.task.name, self.variant.name, self.seed

    @property
    def cell(self) -> tuple[Kind, str, str]:
        """Kind, task and variant: what all seeds of a stage have in common."""
        return self.kind, self.task.name, self.variant.name

    @property
    def steps(self) -> int:
        """The length of its training, in epochs (classifiers) or iterations (GANs)."""
        return self.task.recipe.iterations if isinstance(self.task, GanTask) else self.task.recipe.epochs

    @property
    def linked(self) -> Path:
        """The folder in which its stage leaves it for the stages after it."""
        return OUTPUTS[self.kind] / self.task.name / self.variant.name / str(self.seed)


OUTPUTS = {Kind.CLASSIFICATION: layout.TRAINED, Kind.GAN: layout.GENERATED}  # of the stages that train
UNITS = {Kind.CLASSIFICATION: "epoch", Kind.GAN: "iteration"}  # in which `Run.steps` counts
FID_FEATURES = "fid-features"  # the task of the classifier whose features the FID compares; it is in no suite
