"""The strict schema of params.yaml. Each part of it stands beside the code that it is for, and is put together here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, create_model

from normbench.evaluation.registry import scores
from normbench.gan.task import GanTaskEntry
from normbench.runs.variant import VariantEntry
from normbench.suite.suite import Suite
from normbench.system.schema import Positive, PositiveReal, Share, Strict
from normbench.training.task import TaskEntry

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def _all_or_list(value: Any) -> Any:
    if value != "all" and not isinstance(value, list):
        raise ValueError("must be `all` or a list of names")
    return value


class Corruptions(Strict):
    """names: `all`, or some of them. severities: some of 1 to 5. engine: who computes them, this program or the package
    of that name, which needs 32 pixels a side. constants: the benchmark whose severities these are; `auto` goes by the
    size of the images. source: null, or the folder of a published benchmark (`<name>.npy` and `labels.npy`, as of
    CIFAR-10-C) to take the images from; `{dataset}` in it stands for the dataset's name."""

    names: Annotated[Literal["all"] | Annotated[list[str], Field(min_length=1)], BeforeValidator(_all_or_list)] = "all"
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)] = [1, 2, 3, 4, 5]
    engine: Literal["normbench", "imagecorruptions"] = "normbench"
    constants: Literal["auto", "cifar", "tiny_imagenet", "imagenet"] = "auto"
    source: str | None = None


class CorruptedExamples(Strict):
    """corrupted_examples: on how many test images each corruption and severity is scored, null for all of them."""

    corrupted_examples: Positive | None = None


if TYPE_CHECKING:
    Evaluation = CorruptedExamples
else:
    # The section `evaluation`: beside that, a key for each score with its settings; null leaves it out.
    Evaluation = create_model(
        "Evaluation",
        __base__=CorruptedExamples,
        **{each.name: (each.settings | None, each.default) for each in scores()},
    )


class Dataset(Strict):
    """The keys of every dataset. All others are options of its source, which `resolve` checks by the source's class.

    source: a name of normbench/data/sources, `path/to/file.py:name` or `package.module:name`. image_size: height and
    width in pixels; where null, the source's own. mean, std: the input normalization in 0..1 for each channel, measured
    on the training images where null. note: what readers of its results should know of these data; it stands in every
    record and in the report.
    """

    model_config = ConfigDict(extra="allow")

    source: str
    image_size: Annotated[int, Field(ge=4)] | None = None
    mean: list[Share] | None = None
    std: list[PositiveReal] | None = None
    note: str | None = None

    def options(self) -> dict[str, Any]:
        """The options of the source, as they stand in params.yaml."""
        return dict(self.model_extra or {})


class Params(Strict):
    """The whole of params.yaml."""

    suite: Suite
    corruptions: Corruptions = Corruptions()
    evaluation: Evaluation = Evaluation()
    datasets: dict[str, Dataset] = {}
    tasks: dict[str, TaskEntry] = {}
    gan_tasks: dict[str, GanTaskEntry] = {}
    variants: dict[str, VariantEntry] = {}
