"""The suite: the tasks, variants and seeds of the benchmark, and the runs that they make up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from normbench.runs.run import Kind
from normbench.system import layout
from normbench.system.schema import Seed, Strict


class SuiteEntry(Strict):
    """The section `suite` of params.yaml. The names in its lists are processed in their order.

    seed: of all random draws that the runs share. seeds: there is one run for each task, variant and seed. baseline:
    the variant to which the mean corruption error is relative.
    """

    seed: Seed = 0
    seeds: Annotated[list[Seed], Field(min_length=1)]
    datasets: Annotated[list[str], Field(min_length=1)]
    tasks: list[str]
    variants: list[str]
    baseline: str | None = None
    gan_tasks: list[str]
    gan_variants: list[str]


class Suite(SuiteEntry):
    """The suite after params.yaml has been resolved. segmentation: those of its tasks that are of that kind."""

    segmentation: list[str] = []

    @classmethod
    def resolved(cls) -> Suite:
        """Returns the suite as it was last resolved."""
        return cls.read(layout.RESOLVED / "suite.json")

    def of_kind(self, kind: Kind) -> tuple[list[str], list[str]]:
        """Returns the names of the tasks and of the variants of a kind."""
        if kind is Kind.GAN:
            return self.gan_tasks, self.gan_variants
        masks = kind is Kind.SEGMENTATION
        return [name for name in self.tasks if (name in self.segmentation) is masks], self.variants

    def kind_of(self, task: str) -> Kind:
        """Returns the kind of one of `tasks`."""
        return Kind.SEGMENTATION if task in self.segmentation else Kind.CLASSIFICATION

    def names(self) -> list[tuple[Kind, str, str, int]]:
        """Returns kind, task, variant and seed of every run, in the order of the suite."""
        return [
            (kind, task, variant, seed)
            for kind in Kind
            for task in self.of_kind(kind)[0]
            for variant in self.of_kind(kind)[1]
            for seed in self.seeds
        ]


# The name of the section of params.yaml, and of the folder in build/resolved, with the tasks of a kind.
SECTIONS = {Kind.CLASSIFICATION: "tasks", Kind.SEGMENTATION: "tasks", Kind.GAN: "gan_tasks"}
# The stage that trains the runs of a kind.
TRAINING_STAGES = {Kind.CLASSIFICATION: "train", Kind.SEGMENTATION: "train", Kind.GAN: "gan"}
# Where the digest of the code that trains them stands in the file of that stage.
DIGESTS = {Kind.CLASSIFICATION: "digest", Kind.SEGMENTATION: "segmentation", Kind.GAN: "digest"}
