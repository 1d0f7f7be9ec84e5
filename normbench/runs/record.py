"""The record of a finished run: one JSON file with its metrics, costs and provenance."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from normbench.data.bound import Bound, Corrupted
from normbench.gan.task import GanTask
from normbench.runs.run import Kind, Run, Status
from normbench.runs.variant import Variant
from normbench.system.schema import MemoryFormat, Precision, Strict
from normbench.training.task import Task

FORMAT = 2  # version of the format of records; the stages that train depend on it, so that no old record is reused


class Numerics(Strict):
    """The settings that decide the last digits of a result, besides the device.

    precision, memory_format: as they were used. threads: of a run on a CPU; null elsewhere.
    """

    precision: Precision
    memory_format: MemoryFormat
    threads: int | None


class Device(Strict):
    """The machine that trained a run.

    type: `cuda`, `mps` or `cpu`. name: of the GPU, or of the CPU if that trained. cores: of the machine's CPU.
    side_by_side: the number of runs that shared the machine, this one included. memory_bytes, cuda (version),
    multi_process_service: of a GPU; null elsewhere.
    """

    type: str
    name: str
    cpu: str
    cores: int | None
    system: str
    side_by_side: int
    memory_bytes: int | None = None
    cuda: str | None = None
    multi_process_service: bool | None = None


class Git(Strict):
    """The revision of the checkout, and whether it had uncommitted changes; null outside of a repository."""

    revision: str | None
    dirty: bool | None


class Cost(Strict):
    """The cost of a run.

    images_per_second: training images per second, the median over the epochs (of a GAN: intervals of iterations) after
    the first; null if none was completed. peak_memory_bytes: of one training step. parameters: the number of trained
    parameters, of a GAN's discriminator alone. epoch_seconds: of the epochs that this process ran completely. resumed:
    the position at which this process continued the run, or null. seconds: by phase.
    """

    images_per_second: float | None
    peak_memory_bytes: int
    parameters: int
    epoch_seconds: list[float]
    resumed: dict[str, int] | None
    seconds: dict[str, float]


class Provenance(Strict):
    """The origin of a result.

    code: the digest of the training code. started, ended: UTC, ISO 8601. corrupted, evaluation: the corrupted images
    and the settings with which the run was scored; null before that.
    """

    task: Task | GanTask
    variant: Variant
    dataset: Bound
    code: str
    git: Git
    versions: dict[str, str]
    device: Device
    numerics: Numerics
    started: str
    ended: str
    corrupted: Corrupted | None = None
    evaluation: dict[str, Any] | None = None


class Record(Strict):
    """What a finished run stores beside its files.

    diverged: the position (from 0) of the first loss that was not finite, as epoch and step for classifiers and as step
    for GANs; null if the run finished. metrics: what the training measured, and one entry for each score of the
    evaluation.
    """

    format: int
    run: str
    kind: Kind
    seed: int
    status: Status
    diverged: dict[str, int] | None
    metrics: dict[str, Any]
    cost: Cost
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _has_this_format(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise ValueError("is a record of another version of normbench, so the run has to be trained again")
        return value

    @property
    def finished(self) -> bool:
        """Whether the run finished, i.e. did not diverge."""
        return self.status is Status.FINISHED

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.provenance.task.name, self.provenance.variant.name, self.seed

    def described_run(self) -> Run:
        """Returns the run that the provenance describes. Its id equals `run` unless the record was altered."""
        origin = self.provenance
        return Run(self.kind, origin.task, origin.variant, self.seed, origin.dataset, origin.code)

    def with_scores(
        self, metrics: dict[str, Any], seconds: dict[str, float], provenance: dict[str, Any] | None = None
    ) -> Record:
        """Returns a copy with added metrics, added phases of its seconds, and changed values of its provenance."""
        return self.model_copy(
            update={
                "metrics": self.metrics | metrics,
                "cost": self.cost.model_copy(update={"seconds": self.cost.seconds | seconds}),
                "provenance": self.provenance.model_copy(update=provenance or {}),
            }
        )
