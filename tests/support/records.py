"""Invented but valid records of both kinds, for tests that train nothing."""

from __future__ import annotations

from typing import Any

from normbench.data.bound import Bound, Corrupted
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.runs.contents import contents
from normbench.runs.record import FORMAT, Cost, Device, Git, Numerics, Provenance, Record, Stored
from normbench.runs.run import Kind, Status
from normbench.runs.variant import Variant
from normbench.system.schema import Strict
from normbench.training.recipe import Recipe
from normbench.training.task import Task

EPOCHS, ITERATIONS = 4, 40  # length of a finished run
SEEDS = list(range(12))


def record(
    task: str = "digits-resnet8",
    variant: str = "batch_norm",
    seed: int = 0,
    status: str = "finished",
    kind: str = "classification",
    **changes: Any,
) -> Record:
    """Returns a record as training leaves it: with the history and, for a classifier, the clean accuracy.

    changes: other values of its fields. If a field is itself a schema, a dictionary changes only the named fields of
    it: `cost={"parameters": 7}` keeps the rest of the cost. Other values, such as metrics and versions, are replaced as
    a whole. The id is that of the run which the record describes, unless `run` gives another.
    """
    ended = Status(status)
    found = Record.model_construct(
        format=FORMAT,
        run="0" * 16,
        kind=Kind(kind),
        seed=seed,
        status=ended,
        diverged=_first_bad_loss(Kind(kind)) if ended is Status.DIVERGED else None,
        metrics=_metrics(Kind(kind), ended),
        cost=_cost(Kind(kind), ended),
        provenance=Provenance(
            task=a_gan_task(task) if Kind(kind) is Kind.GAN else a_task(task),
            variant=Variant(name=variant, method=variant, options={}, method_code="0" * 64),
            dataset=a_dataset(),
            code="1" * 64,
            git=Git(revision="0123456789abcdef" * 2 + "01234567", dirty=True),
            versions={"python": "3.12.4", "torch": "2.9.0", "numpy": "2.3.1"},
            device=Device(type="cpu", name="Some CPU", cpu="Some CPU", cores=8, system="Linux", side_by_side=1),
            numerics=Numerics(precision="float32", memory_format="channels_last", threads=1),
            started="2026-03-01T10:00:00+00:00",
            ended="2026-03-01T10:05:00+00:00",
        ),
        files=_files(Kind(kind), ended),
    )
    return change(found, **changes)


def change(given: Record, **changes: Any) -> Record:
    """Returns a copy with other values, as `record` takes them, checked like a record that is read from a file.

    Metrics keep what training measures unless they have other values of it, and files follow the status.
    """
    status = Status(changes.get("status", given.status))
    if "metrics" in changes:
        changes["metrics"] = _metrics(given.kind, status) | changes["metrics"]
    if status is not given.status:
        changes = {"files": _files(given.kind, status)} | changes
    changed = _changed(given, changes)
    whole = changed.model_copy(update={"run": changed.described_run().id} if "run" not in changes else {})
    return Record.model_validate_json(whole.model_dump_json(warnings=False))


def _changed(part: Any, changes: dict[str, Any]) -> Any:
    new = {}
    for name, value in changes.items():
        assert name in type(part).model_fields, name
        old = getattr(part, name)
        new[name] = _changed(old, value) if isinstance(old, Strict) and isinstance(value, dict) else value
    return part.model_copy(update=new)


def a_task(name: str = "digits-resnet8") -> Task:
    """Returns a resolved task."""
    return Task(
        name=name,
        dataset="digits",
        model="resnet8",
        model_options={"width": 16},
        recipe=Recipe(epochs=EPOCHS, batch_size=64, crop_padding=1),
        seed=0,
        seeds=SEEDS,
        model_code="2" * 64,
    )


def a_gan_task(name: str = "digits-sngan") -> GanTask:
    """Returns a resolved GAN task."""
    return GanTask(
        name=name,
        dataset="digits",
        model="sngan",
        model_options={"width": 32},
        recipe=GanRecipe(iterations=ITERATIONS),
        seed=0,
        seeds=SEEDS,
        model_code="3" * 64,
    )


def a_dataset(name: str = "digits") -> Bound:
    """Returns the dataset of the records."""
    return Bound(
        name=name,
        path=f"build/data/{name}",
        fingerprint="5a" * 32,
        classes=10,
        channels=1,
        image_size=16,
        train=1437,
        test=360,
        mean=[0.3],
        std=[0.4],
        origin="/home/somebody/digits.npz",
    )


def corrupted_images(names: list[str], severities: list[int]) -> Corrupted:
    """Returns the description of the corrupted images on which a record was scored."""
    return Corrupted(
        path="build/corrupted/digits",
        names=names,
        severities=severities,
        source_fingerprint="5a" * 32,
        sha256=dict.fromkeys(names, "4" * 64),
        engine="normbench",
        constants="cifar",
        seed=0,
        published=None,
        versions={"numpy": "2.3.1"},
    )


def _first_bad_loss(kind: Kind) -> dict[str, int]:
    return {"step": 12} if kind is Kind.GAN else {"epoch": 1, "step": 30}


def _files(kind: Kind, status: Status) -> dict[str, Stored]:
    return {name: Stored(bytes=1000, sha256="6" * 64) for name in contents(kind, status)}


def _metrics(kind: Kind, status: Status) -> dict[str, Any]:
    finished = status is Status.FINISHED
    if kind is Kind.GAN:
        steps = (20, ITERATIONS) if finished else ()
        return {"history": [{"iteration": s, "discriminator_loss": 1.5, "generator_loss": 0.2} for s in steps]}
    epochs = range(EPOCHS if finished else 1)
    history = [
        {"epoch": e + 1, "lr": 0.1 / (e + 1), "loss": 2.0 / (e + 1), "accuracy": 1 - 0.5 / (e + 1)} for e in epochs
    ]
    metrics: dict[str, Any] = {"history": history, "training_set": {"images": 1437, "flipped_labels": 0.0}}
    return metrics | ({"clean_accuracy": 0.975} if finished else {})


def _cost(kind: Kind, status: Status) -> Cost:
    epochs = {Status.FINISHED: EPOCHS, Status.DIVERGED: 1}[status] if kind is Kind.CLASSIFICATION else 0
    return Cost(
        images_per_second=5000.0,
        peak_memory_bytes=64 * 2**20,
        parameters=77_530,
        epoch_seconds=[0.25] * epochs,
        resumed=None,
        seconds={"setup": 0.5, "train": 2.0, "save": 0.25},
    )
