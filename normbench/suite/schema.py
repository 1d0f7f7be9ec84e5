"""The strict schema of params.yaml, composed of parts that are defined beside the code they configure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag, create_model

from normbench.evaluation.registry import scores
from normbench.gan.evaluation import GanEvaluation
from normbench.gan.task import GanTaskEntry
from normbench.runs.variant import VariantEntry
from normbench.segmentation.task import SegmentationTaskEntry
from normbench.suite.suite import SuiteEntry
from normbench.system.arrays import SMALLEST_SIDE
from normbench.system.schema import Positive, Strict
from normbench.training.task import TaskEntry

LARGEST_SIDE = 1 << 16  # pixels, about what image files can have
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


def _of_pixels(value: float) -> float:
    if not 0 <= value <= 1:
        advice = f": divide by 255 ({value / 255:.4g})" if 1 < value <= 255 else ""
        raise ValueError(f"must be between 0 and 1, as pixels are{advice}")
    return value


OfPixels = Annotated[float, AfterValidator(_of_pixels)]  # a statistic of pixels in 0..1


class Corruptions(Strict):
    """The section `corruptions` of params.yaml.

    names: `all`, or a list of names and references. severities: some of 1 to 5. engine: the code that computes the
    images, `normbench` or the package `imagecorruptions`, which needs images of at least 32 x 32 pixels. constants: the
    benchmark that defines the severities; `auto` chooses it by the size of the images. source: null, or the folder of a
    published benchmark, whose images are used instead: such as CIFAR-10-C (`<name>.npy` and `labels.npy`) or, for a
    dataset of image files, ImageNet-C (`<name>/<severity>/<class>/<file>`). `{dataset}` in it stands for the name of
    the dataset. stored: whether the images are written to the disk, or computed each time that a network is evaluated;
    null stores them unless their dataset is streamed.
    """

    names: Literal["all"] | Annotated[list[str], Field(min_length=1)] = "all"
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)] = [1, 2, 3, 4, 5]
    engine: Literal["normbench", "imagecorruptions"] = "normbench"
    constants: Literal["auto", "cifar", "tiny_imagenet", "imagenet"] = "auto"
    source: str | None = None
    stored: bool | None = None


class CorruptedExamples(Strict):
    """The key of `evaluation` that is not a score.

    corrupted_examples: the number of test images on which each corruption and severity is scored; null for all of them.
    """

    corrupted_examples: Positive | None = None


if TYPE_CHECKING:
    Evaluation = CorruptedExamples
else:
    # The section `evaluation`: `corrupted_examples`, and for each score a key with its settings, or null to skip it.
    Evaluation = create_model(
        "Evaluation",
        __base__=CorruptedExamples,
        **{each.name: (each.settings | None, each.default) for each in scores()},
    )


def _size(value: Any) -> Any:
    """Checks an `image_size`; a pair of equal sides becomes one number."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else [value]
    if len(sides) != (2 if isinstance(value, list) else 1) or any(type(side) is not int for side in sides):
        raise ValueError("must be the side of square images in pixels, or [height, width]")
    if min(sides) < SMALLEST_SIDE:
        raise ValueError(f"must be at least {SMALLEST_SIDE} pixels")
    if max(sides) > LARGEST_SIDE:
        raise ValueError(f"must be at most {LARGEST_SIDE} pixels")
    return sides[0] if sides[0] == sides[-1] else sides


class Dataset(Strict):
    """The keys that every dataset has. Further keys are options of its source, which `resolve` checks.

    source: a name in normbench/data/sources, `path/to/file.py:name` or `package.module:name`. image_size: the side of
    square images in pixels, or [height, width]; null for the size of the source. mean, std: the input normalization of
    each channel, for values in 0..1; null to measure them on the training images, or the mean alone where std is given.
    note: what readers of the results should know about the data; it is stored in every record and shown in the report.
    """

    model_config = ConfigDict(extra="allow")

    source: str
    image_size: Annotated[int | list[int] | None, BeforeValidator(_size)] = None
    mean: Annotated[list[OfPixels], Field(min_length=1)] | None = None
    std: Annotated[list[Annotated[OfPixels, Field(gt=1e-6)]], Field(min_length=1)] | None = None
    note: str | None = None

    def options(self) -> dict[str, Any]:
        """Returns the options of the source, as params.yaml gives them."""
        return dict(self.model_extra or {})


def _kind(value: Any) -> str:
    """The kind of a task that may be of classification, which has no key for it."""
    return (
        "segmentation"
        if isinstance(value, SegmentationTaskEntry) or (isinstance(value, dict) and "kind" in value)
        else "classification"
    )


# An entry under `tasks`.
Entry = Annotated[
    Annotated[TaskEntry, Tag("classification")] | Annotated[SegmentationTaskEntry, Tag("segmentation")],
    Discriminator(_kind),
]


class Params(Strict):
    """The whole content of params.yaml."""

    suite: SuiteEntry
    corruptions: Corruptions = Corruptions()
    evaluation: Evaluation = Evaluation()
    gan_evaluation: GanEvaluation = GanEvaluation()
    datasets: dict[str, Dataset] = {}
    tasks: dict[str, Entry] = {}
    gan_tasks: dict[str, GanTaskEntry] = {}
    variants: dict[str, VariantEntry] = {}
