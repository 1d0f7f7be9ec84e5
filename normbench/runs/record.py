"""A record: what a finished run says of itself, in one JSON file."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from normbench.data.bound import Bound, Corrupted
from normbench.gan.task import GanTask
from normbench.runs.run import Kind, Run, Status
from normbench.runs.variant import Variant
from normbench.system.schema import MemoryFormat, Precision, Strict
from normbench.training.task import Task

FORMAT = 2  # of records; the stages that train depend on it, so that an older record is not taken for a new one


class Numerics(Strict):
    """On what the last digits of a result depend beside the device: precision and memory format as they were used, and
    the threads of a run on a CPU (null elsewhere)."""

    precision: Precision
    memory_format: MemoryFormat
    threads: int | None


class Device(Strict):
    """The machine of a run.

    type: `cuda`, `mps` or `cpu`. name: of the GPU, or of the CPU where that trained. cores: of the machine.
    side_by_side: runs that shared it, this one included. memory_bytes, cuda, multi_process_service: of a GPU.
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
    """What a run cost.

    images_per_second: training images, the median over epochs (or stretches of iterations) after the first; null where
    none was completed. peak_memory_bytes: of one training step. parameters: trained numbers. epoch_seconds: of epochs
    that one process ran from their start. resumed: where this process took over an unfinished run, else null. seconds:
    by phase.
    """

    images_per_second: float | None
    peak_memory_bytes: int
    parameters: int
    epoch_seconds: list[float]
    resumed: dict[str, int] | None
    seconds: dict[str, float]


class Provenance(Strict):
    """Where a result comes from. code: the digest of the training code. started, ended: UTC, ISO 8601. corrupted,
    evaluation: what the scores were measured on and with which settings, once the run is evaluated."""

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
    """What a finished run leaves beside its files.

    diverged: epoch (of classifiers) and step, from 0, of the first loss that was not finite; null where it finished.
    metrics: what training measured, and one entry for each score of the evaluation.
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

    @field_validator("format")
    @classmethod
    def _is_current(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"is {value}, a record of this version has {FORMAT}: train the run again")
        return value

    @property
    def finished(self) -> bool:
        return self.status is Status.FINISHED

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.provenance.task.name, self.provenance.variant.name, self.seed

    def described_run(self) -> Run:
        """The run that the provenance describes; its id is that of the record, unless the record was tampered with."""
        origin = self.provenance
        return Run(self.kind, origin.task, origin.variant, self.seed, origin.dataset, origin.code)

    def with_scores(
        self, metrics: dict[str, Any], seconds: dict[str, float], provenance: dict[str, Any] | None = None
    ) -> Record:
        """A copy with more metrics, more phases of its time, and other values of its provenance."""
        return self.model_copy(
            update={
                "metrics": self.metrics | metrics,
                "cost": self.cost.model_copy(update={"seconds": self.cost.seconds | seconds}),
                "provenance": self.provenance.model_copy(update=provenance or {}),
            }
        )
