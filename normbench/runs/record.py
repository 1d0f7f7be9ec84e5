"""The record of a finished run: one JSON file with its metrics, costs and provenance.

`TrainedRecord` is what training writes, and what the run store and archives hold. A `Record` may also have the scores
that the evaluation here has added. Both are checked when they are written and when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from normbench.data.bound import Bound, Corrupted
from normbench.gan.evaluation import Extractor
from normbench.gan.task import GanTask
from normbench.runs.contents import contents, optional
from normbench.runs.migrations import migrated
from normbench.runs.run import Kind, Run, Status
from normbench.runs.tasks import AnyTask, EpochTask
from normbench.runs.variant import Variant
from normbench.segmentation.confusion import scores
from normbench.segmentation.protocol import protocol
from normbench.segmentation.task import SegmentationTask
from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.quantities import Accuracy, Finite, Revision, RunId, Sha256, Time, unprintable
from normbench.system.schema import (
    MemoryFormat,
    NotNegativeReal,
    Positive,
    PositiveReal,
    Precision,
    Strict,
    first_problem,
)
from normbench.training.task import Task

FORMAT = 3  # version of the format of records; the stages that train depend on it, so that no old record is reused

PAIR = Field(min_length=2, max_length=2)
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Parsed = TypeVar("Parsed", bound=Strict)

# The scores that have a list of numbers for each corruption, one for each severity.
CORRUPTED = ("corruption_accuracy", "corruption_calibration", "corruption_mean_iou", "corruption_pixel_accuracy")
# The places of free texts, which may have more than one line.
FREE = frozenset({"provenance.dataset.note", "provenance.dataset.origin"})


class Numerics(Strict):
    """The settings that decide the last digits of a result, besides the device.

    precision, memory_format: as they were used. threads: of a run on a CPU; null elsewhere.
    """

    precision: Precision
    memory_format: MemoryFormat
    threads: Positive | None


class Device(Strict):
    """The machine that trained a run.

    type: `cuda`, `mps` or `cpu`. name: of the GPU, or of the CPU if that trained. cores: of the machine's CPU.
    side_by_side: the number of runs that shared the machine, this one included. ranks: the number of processes that
    trained the run together. memory_bytes, cuda (version),
    multi_process_service: of a GPU; null elsewhere.
    """

    type: Literal["cuda", "mps", "cpu"]
    name: str
    cpu: str
    cores: Positive | None
    system: str
    side_by_side: Positive
    ranks: Positive = 1
    memory_bytes: Count | None = None
    cuda: str | None = None
    multi_process_service: bool | None = None


class Git(Strict):
    """The revision of the checkout, and whether it had uncommitted changes; null outside of a repository."""

    revision: Revision | None
    dirty: bool | None


class Position(Strict):
    """A position in a training of epochs, both from 0; whether steps count over the epochs is said there."""

    epoch: Count
    step: Count


class Iteration(Strict):
    """A position in the training of a GAN, from 0."""

    step: Count


class Cost(Strict):
    """The cost of a run.

    images_per_second: training images per second, the median over the epochs (of a GAN: intervals of iterations) after
    the first; null if none was completed. peak_memory_bytes: of one training step. parameters: the number of trained
    parameters, of a GAN's discriminator alone. epoch_seconds: of the epochs that this process ran completely. resumed:
    the position at which this process continued the run, or null. seconds: by phase.
    """

    images_per_second: PositiveReal | None
    peak_memory_bytes: Count
    parameters: Count
    epoch_seconds: list[Seconds]
    resumed: dict[str, Count] | None
    seconds: dict[str, Seconds]


class Stored(Strict):
    """A file of a run: its size and the sha256 of its bytes."""

    bytes: Count
    sha256: Sha256


class Provenance(Strict):
    """The origin of a result.

    code: the digest of the training code. started, ended: UTC, ISO 8601. corrupted, evaluation: the corrupted images
    and the settings with which the run was scored; null before that.
    """

    task: AnyTask
    variant: Variant
    dataset: Bound
    code: Sha256
    git: Git
    versions: dict[str, str]
    device: Device
    numerics: Numerics
    started: Time
    ended: Time
    corrupted: Corrupted | None = None
    evaluation: dict[str, dict[str, Any] | int | None] | None = None


class Epoch(Strict):
    """One epoch: its number from 1, its first learning rate, mean loss and training accuracy.

    That of segmentation is the mean over the steps of the accuracy on the pixels that count.
    """

    epoch: Positive
    lr: NotNegativeReal
    loss: Finite
    accuracy: Accuracy


class TrainingSet(Strict):
    """The images on which a classifier was trained, and the fraction of them whose label was made wrong."""

    images: Positive
    flipped_labels: Accuracy


class ClassifierMetrics(Strict):
    """What the training of a classifier measures. A run that diverged has no clean accuracy."""

    history: list[Epoch]
    training_set: TrainingSet
    clean_accuracy: Accuracy | None = None


class SegmentationMetrics(Strict):
    """What the training of a network of segmentation measures. A run that diverged has no scores.

    training_images: their number. mean_iou, pixel_accuracy, iou, confusion: over all pixels of the test images (see
    `normbench.segmentation.confusion`); iou and confusion by class of the network.
    """

    history: list[Epoch]
    training_images: Positive
    mean_iou: Accuracy | None = None
    pixel_accuracy: Accuracy | None = None
    iou: list[Accuracy | None] | None = None
    confusion: list[list[Count]] | None = None


class Interval(Strict):
    """The mean losses of a GAN up to an iteration, counted from 1, since the interval before it.

    diversity: of samples then, relative to real images (see `normbench.gan.diversity`). spectral_norms: of the
    discriminator's weights then, by layer (see `normbench.gan.norms`). Both are missing in early records.
    """

    iteration: Positive
    discriminator_loss: Finite
    generator_loss: Finite
    diversity: NotNegativeReal | None = None
    spectral_norms: dict[str, NotNegativeReal] = {}


class GanMetrics(Strict):
    """What the training of a GAN measures.

    collapsed: the iteration, counted from 1, from which on samples had lost their diversity, or null if they have not.
    """

    history: list[Interval]
    collapsed: Iteration | None = None


class Calibration(Strict):
    """Negative log-likelihood in nats, Brier score and expected calibration error of predicted probabilities."""

    nll: NotNegativeReal
    brier: Annotated[float, Field(ge=0, le=2)]
    ece: Accuracy


class CalibrationBySeverity(Strict):
    """The same for each severity of a corruption."""

    nll: list[NotNegativeReal]
    brier: list[Annotated[float, Field(ge=0, le=2)]]
    ece: list[Accuracy]


class CorruptionScores(Strict):
    """What is measured of every classifier: see `normbench.evaluation.corrupted.measure`.

    collapsed: whether the network names the same class for every clean test image; such a run counts as failed.
    columns: the numbers of all scores by column of results/robustness.csv. missing: why the network cannot have some of
    the columns, by column.
    """

    collapsed: bool = False
    calibration: Calibration | None = None
    corruption_accuracy: dict[str, list[Accuracy]] | None = None
    corruption_calibration: dict[str, CalibrationBySeverity] | None = None
    columns: dict[str, Count | Finite] = {}
    missing: dict[str, str] = {}


class ScoredClassifierMetrics(ClassifierMetrics, CorruptionScores):
    """The metrics of a classifier with its scores.

    Those in files of their own are checked where they are measured, by what these files say (see
    `normbench.evaluation.registry`): they need torch, which reading does not.
    """

    model_config = ConfigDict(extra="allow")


class ScoredSegmentationMetrics(SegmentationMetrics):
    """The metrics of a network of segmentation with its scores: those above on corrupted images.

    corruption_mean_iou, corruption_pixel_accuracy: by corruption, a number for each severity. columns, missing: as
    those of `CorruptionScores`. collapsed: whether the network names the same class for all pixels.
    """

    collapsed: bool = False
    corruption_mean_iou: dict[str, list[Accuracy]] | None = None
    corruption_pixel_accuracy: dict[str, list[Accuracy]] | None = None
    columns: dict[str, Count | Finite] = {}
    missing: dict[str, str] = {}


class Features(Strict):
    """A network in whose features generated and real images were compared, and how many of them.

    sha256: of its weights. resize: how it resizes images. run, test_accuracy: of a classifier of the dataset; null
    elsewhere. samples, references: the numbers of generated and of real images. compared: how many of either were
    compared in pairs. kid_subset: the images in a subset of the KID; null without a KID. intervals: of 95 % for the
    same generator and other images, by column.
    """

    network: str
    sha256: Sha256
    resize: str
    dimensions: Positive
    samples: Positive
    references: Positive
    compared: Annotated[list[Positive], PAIR]
    kid_subset: Positive | None
    intervals: dict[str, Annotated[list[Finite], PAIR]]
    run: RunId | None = None
    test_accuracy: Accuracy | None = None


class ScoredGanMetrics(GanMetrics):
    """The metrics of a GAN with its scores.

    fid: in the features of a classifier of the dataset, or null. columns: the other scores by column of
    results/gan.csv. missing: why there are none, by column. features: by extractor. over_time: the KID of the samples
    at each entry of the history, by column; a number may be null.
    """

    fid: Finite | None = None
    columns: dict[str, Finite] = {}
    missing: dict[str, str] = {}
    features: dict[Extractor, Features] = {}
    over_time: dict[str, list[Finite | None]] = {}


TRAINED: dict[Kind, type[Strict]] = {
    Kind.CLASSIFICATION: ClassifierMetrics,
    Kind.SEGMENTATION: SegmentationMetrics,
    Kind.GAN: GanMetrics,
}
SCORED: dict[Kind, type[Strict]] = {
    Kind.CLASSIFICATION: ScoredClassifierMetrics,
    Kind.SEGMENTATION: ScoredSegmentationMetrics,
    Kind.GAN: ScoredGanMetrics,
}
TASKS: dict[Kind, type[Strict]] = {
    Kind.CLASSIFICATION: Task,
    Kind.SEGMENTATION: SegmentationTask,
    Kind.GAN: GanTask,
}
SCORES = ("mean_iou", "pixel_accuracy", "iou", "confusion")  # of a finished run of segmentation


class Record(Strict):
    """What is known of a finished run, with its scores if it has been scored; `TrainedRecord` has none.

    diverged: the position (from 0) of the first loss that was not finite, as step for GANs and as epoch and step for
    others; null if the run finished. metrics: what the training measured (see `TRAINED`), and one entry for each score.
    files: the files of the run, by name.
    """

    METRICS: ClassVar[Mapping[Kind, type[Strict]]] = SCORED

    format: int
    run: RunId
    kind: Kind
    seed: Count
    status: Status
    diverged: dict[str, Count] | None
    metrics: dict[str, Any]
    cost: Cost
    provenance: Provenance
    files: dict[str, Stored]

    @model_validator(mode="before")
    @classmethod
    def _has_this_format(cls, value: Any, info: ValidationInfo) -> Any:
        folder = info.context.parent if isinstance(info.context, Path) else None
        return migrated(value, FORMAT, folder) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _is_consistent(self) -> Record:
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def finished(self) -> bool:
        """Whether the run finished, i.e. did not diverge."""
        return self.status is Status.FINISHED

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.provenance.task.name, self.provenance.variant.name, self.seed

    def described_run(self) -> Run:
        """Returns the run that the provenance describes. Its id is `run`."""
        origin = self.provenance
        return Run(self.kind, origin.task, origin.variant, self.seed, origin.dataset, origin.code)

    def with_scores(
        self, metrics: dict[str, Any], seconds: dict[str, float], provenance: dict[str, Any] | None = None
    ) -> Record:
        """Returns a copy with added metrics, added phases of its seconds, and changed values of its provenance.

        Raises UserError if the metrics are not valid.
        """
        given = dict(self) | {
            "metrics": self.metrics | metrics,
            "cost": self.cost.model_copy(update={"seconds": self.cost.seconds | seconds}),
            "provenance": self.provenance.model_copy(update=provenance or {}),
        }
        return made(Record, given)

    def write(self, path: Path) -> None:
        """Writes the record as JSON, atomically, after checking it. Raises UserError if it is not valid."""
        value, problem = self.json_value(), None
        try:
            type(self).model_validate_json(json.dumps(value, allow_nan=False))
        except ValidationError as error:
            problem = first_problem(error)
        except ValueError:
            problem = "holds a number that is not finite"
        if problem is not None:
            raise UserError(f"{path}: not written: {problem}")
        files.write_json(path, value)

    def _problems(self) -> Iterator[str]:
        """Yields what contradicts itself in the record."""
        origin, task = self.provenance, self.provenance.task
        unclean = unprintable(self.json_value(), FREE)
        if unclean is not None:
            yield f"{unclean}: has a control character"
        if not isinstance(task, TASKS[self.kind]):
            yield f"provenance.task: is no task of the kind {self.kind}"
            return
        described = self.described_run().id
        if described != self.run:
            yield f"run: the record describes run {described}, not {self.run}"
        if self.seed not in task.seeds:
            yield f"seed: {self.seed} is none of provenance.task.seeds"
        if (self.diverged is None) is not self.finished:
            yield "diverged: a diverged run has a position there, and a finished one null"
        expected = contents(self.kind, self.status)
        if set(self.files) - set(optional(self.kind, self.status)) != set(expected):
            yield f"files: a {self.status} run of this kind has {', '.join(expected)}"
        if datetime.fromisoformat(origin.started) > datetime.fromisoformat(origin.ended):
            yield "provenance.ended: is before provenance.started"
        if len(origin.dataset.mean) != origin.dataset.channels or len(origin.dataset.std) != origin.dataset.channels:
            yield "provenance.dataset: mean and std have a number for each channel"
        if origin.git.revision is None and origin.git.dirty is not None:
            yield "provenance.git: dirty, but without a revision"
        yield from self._numerics_problems()
        yield from self._metrics_problems()

    def _numerics_problems(self) -> Iterator[str]:
        """Yields where the numerics are not those of the recipe."""
        task, used = self.provenance.task, self.provenance.numerics
        wanted = task.recipe.precision
        if used.precision != wanted:
            yield f"provenance.numerics.precision: is {used.precision}, the recipe has {wanted}"
        if isinstance(task, EpochTask) and task.recipe.memory_format == "contiguous" != used.memory_format:
            yield f"provenance.numerics.memory_format: is {used.memory_format}, the recipe has contiguous"
        threads = task.recipe.threads if self.provenance.device.type == "cpu" else None
        if used.threads != threads:
            kind = self.provenance.device.type
            yield f"provenance.numerics.threads: is {used.threads}, must be {threads} on a device of the type {kind}"

    def _metrics_problems(self) -> Iterator[str]:
        """Yields what is wrong with the metrics, and with the positions in the training."""
        task, position = self.provenance.task, Iteration if self.kind is Kind.GAN else Position
        try:
            metrics = _parsed(self.METRICS[self.kind], self.metrics, "metrics")
            diverged = None if self.diverged is None else _parsed(position, self.diverged, "diverged")
            resumed = None if self.cost.resumed is None else _parsed(position, self.cost.resumed, "cost.resumed")
        except ValueError as error:
            yield str(error)
            return
        if isinstance(metrics, ClassifierMetrics) and isinstance(task, Task):
            yield from self._classifier_problems(task, metrics, diverged, resumed)
        if isinstance(metrics, SegmentationMetrics) and isinstance(task, SegmentationTask):
            yield from self._segmentation_problems(task, metrics, diverged, resumed)
        if isinstance(metrics, GanMetrics) and isinstance(task, GanTask):
            yield from self._gan_problems(task, metrics, diverged, resumed)
        yield from self._score_problems()

    def _score_problems(self) -> Iterator[str]:
        """Yields what is wrong with the scores besides what `METRICS` says."""
        if not self.finished:
            more = sorted(self.metrics.keys() - TRAINED[self.kind].model_fields.keys())
            yield from (f"metrics.{name}: is a score, but the run diverged" for name in more if self.metrics[name])
        on = self.provenance.corrupted
        for key in CORRUPTED:
            for name, found in (self.metrics.get(key) or {}).items():
                lists = found.values() if isinstance(found, dict) else [found]
                if on and (name not in on.names or any(len(each) != len(on.severities) for each in lists)):
                    yield f"metrics.{key}.{name}: is not what provenance.corrupted says was scored"

    def _classifier_problems(
        self, task: Task, metrics: ClassifierMetrics, diverged: Strict | None, resumed: Strict | None
    ) -> Iterator[str]:
        images = metrics.training_set.images
        yield from self._epoch_problems(task, metrics.history, images, diverged, resumed)
        if (metrics.clean_accuracy is not None) is not self.finished or (
            "clean_accuracy" in self.metrics
        ) is not self.finished:
            yield "metrics.clean_accuracy: a finished run has it, and a diverged one does not"
        train = self.provenance.dataset.train
        if images > train or (task.train_fraction == 1 and images != train):
            yield f"metrics.training_set.images: is {images}, the dataset has {train}"
        if task.label_noise is None and metrics.training_set.flipped_labels != 0:
            yield "metrics.training_set.flipped_labels: must be 0, as the task has no label noise"

    def _segmentation_problems(
        self, task: SegmentationTask, metrics: SegmentationMetrics, diverged: Strict | None, resumed: Strict | None
    ) -> Iterator[str]:
        yield from self._epoch_problems(task, metrics.history, metrics.training_images, diverged, resumed)
        for name in SCORES:
            if (getattr(metrics, name) is not None) is not self.finished or (name in self.metrics) is not self.finished:
                yield f"metrics.{name}: a finished run has it, and a diverged one does not"
        bound = self.provenance.dataset
        if bound.masks is None:
            yield "provenance.dataset: has no masks"
            return
        if metrics.training_images != bound.train:
            yield f"metrics.training_images: is {metrics.training_images}, the dataset has {bound.train}"
        if metrics.confusion is not None and metrics.iou is not None:
            chosen = protocol(task.recipe, bound)
            if {len(metrics.iou), *map(len, metrics.confusion), len(metrics.confusion)} != {chosen.classes}:
                yield f"metrics.confusion: must have a row and a column for each of {chosen.classes} classes"
                return
            if sum(map(sum, metrics.confusion)) > bound.test * chosen.height * chosen.width:
                yield "metrics.confusion: has more pixels than the test images"
            found = scores(np.array(metrics.confusion), chosen)
            if (found.mean_iou, found.pixel_accuracy, found.iou) != (
                metrics.mean_iou,
                metrics.pixel_accuracy,
                metrics.iou,
            ):
                yield "metrics.mean_iou, pixel_accuracy, iou: are not those of the confusion matrix"

    def _epoch_problems(
        self, task: EpochTask, history: list[Epoch], images: int, diverged: Strict | None, resumed: Strict | None
    ) -> Iterator[str]:
        """Yields what is wrong with epochs and with positions in them. images: the number of training images."""
        recipe, done = task.recipe, len(history)
        if [each.epoch for each in history] != list(range(1, done + 1)):
            yield "metrics.history: epochs must count from 1"
        if done > recipe.epochs or (self.finished and done != recipe.epochs):
            yield f"metrics.history: has {done} epochs, the recipe {recipe.epochs}"
        if len(self.cost.epoch_seconds) > recipe.epochs:
            yield f"cost.epoch_seconds: has {len(self.cost.epoch_seconds)} epochs, the recipe {recipe.epochs}"
        steps = images // recipe.batch_size if recipe.drop_last else -(-images // recipe.batch_size)
        if isinstance(diverged, Position) and not diverged.epoch == done == diverged.step // max(1, steps):
            yield f"diverged: is epoch {diverged.epoch}, step {diverged.step}, after a history of {done} epochs"
        if isinstance(resumed, Position) and (resumed.epoch > recipe.epochs or resumed.step >= max(1, steps)):
            yield f"cost.resumed: the recipe has {recipe.epochs} epochs of {steps} steps"

    def _gan_problems(
        self, task: GanTask, metrics: GanMetrics, diverged: Strict | None, resumed: Strict | None
    ) -> Iterator[str]:
        total, places = task.recipe.iterations, [each.iteration for each in metrics.history]
        if places != sorted(set(places)):
            yield "metrics.history: iterations must ascend"
        if any(place > total for place in places) or (self.finished and places[-1:] != [total]):
            yield f"metrics.history: must end at the last of {total} iterations"
        for name, values in (self.metrics.get("over_time") or {}).items():
            if len(values) != len(places):
                yield f"metrics.over_time.{name}: has {len(values)} numbers, the history {len(places)} entries"
        if metrics.collapsed is not None and metrics.collapsed.step not in places:
            yield "metrics.collapsed: is no iteration of the history"
        if isinstance(diverged, Iteration) and diverged.step >= total:
            yield f"diverged: the recipe has {total} iterations"
        if isinstance(resumed, Iteration) and resumed.step > total:
            yield f"cost.resumed: the recipe has {total} iterations"
        if self.cost.epoch_seconds:
            yield "cost.epoch_seconds: a GAN has no epochs"


class TrainedRecord(Record):
    """The record that training leaves, in the run store, in archives and in the outputs of the training stages.

    It has no scores, because scores are always measured where they are shown.
    """

    METRICS: ClassVar[Mapping[Kind, type[Strict]]] = TRAINED

    def _score_problems(self) -> Iterator[str]:
        if self.provenance.corrupted is not None or self.provenance.evaluation is not None:
            yield "provenance: has corrupted images or an evaluation, but scores are measured where they are shown"


def problem_of(run: Run) -> str | None:
    """Returns why no record of a run would be valid, whatever its training measures; None if one can be.

    To be asked before the training, which would be lost otherwise.
    """
    if run.seed not in run.task.seeds:
        return f"seed {run.seed} is none of the task's seeds"
    described = {"task": run.task, "variant": run.variant, "dataset": run.bound}
    value = {"provenance": {key: part.json_value() for key, part in described.items()}}
    unclean = unprintable(value, FREE)
    return None if unclean is None else f"{unclean.removeprefix('provenance.')}: has a control character"


def made(kind: type[Parsed], given: Mapping[str, Any]) -> Parsed:
    """Returns the value with these fields. Raises UserError, with the key, if they are not valid."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise UserError(f"a record is not valid: {first_problem(error)}") from None


def _parsed(kind: type[Parsed], value: Any, at: str) -> Parsed:
    """Returns a part of a record. Raises ValueError, with the key below the place `at`, if it is not valid."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = first_problem(error)
        raise ValueError(f"{at}.{problem}" if error.errors()[0]["loc"] else f"{at}: {problem}") from None
