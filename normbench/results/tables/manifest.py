"""What is behind the tables: the ids of the runs, fingerprints, and the environments in which they were trained.

Two sets of runs from scratch have the same manifest if nothing has changed: it has no times and no revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from normbench.data.bound import Corrupted
from normbench.results.tables.facts import distinct
from normbench.results.tables.means import Runs
from normbench.results.tables.portable import portable
from normbench.runs.record import Provenance, Record
from normbench.runs.run import Kind
from normbench.system.narrowing import narrowed


def manifest(
    runs: Mapping[Kind, Runs], tables: Mapping[str, Iterable[Kind]], code: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the value of the file.

    tables: the kinds of runs behind each file of results/. code: the digest of the code of each stage that scores.
    """
    records = [record for of_kind in runs.values() for cell in of_kind.values() for record in cell]
    origins = [record.provenance for record in records]
    evaluations = distinct(origin.evaluation for origin in origins if origin.evaluation is not None)
    return {
        "tables": {name: list(kinds) for name, kinds in tables.items()},
        "runs": {kind: _ids(of_kind) for kind, of_kind in runs.items()},
        "tasks": {kind: _tasks(of_kind) for kind, of_kind in runs.items()},
        "variants": {name: _method(record) for of_kind in runs.values() for name, record in _by_variant(of_kind)},
        "datasets": {each.dataset.name: _dataset(each) for each in origins},
        "corrupted": {each.dataset.name: _corrupted(each) for each in origins if each.corrupted is not None},
        "evaluations": [each.value for each in evaluations],
        "code": dict(code),
        "environments": _environments(records),
    }


def _ids(runs: Runs) -> dict[str, Any]:
    """Returns the id of each run, by task, variant and seed."""
    found: dict[str, Any] = {}
    for (task, variant), records in runs.items():
        found.setdefault(task, {})[variant] = {str(record.seed): record.run for record in records}
    return found


def _tasks(runs: Runs) -> dict[str, Any]:
    """Returns the dataset of each task, and the digests of the code of its model and of its training."""
    found: dict[str, Any] = {}
    for (task, _), records in runs.items():
        for origin in (record.provenance for record in records):
            own = {"dataset": origin.dataset.name, "model_code": origin.task.model_code, "training_code": origin.code}
            found.setdefault(task, own)
    return found


def _by_variant(runs: Runs) -> list[tuple[str, Record]]:
    return [(variant, records[0]) for (_, variant), records in runs.items() if records]


def _method(record: Record) -> dict[str, str]:
    variant = record.provenance.variant
    return {"method": portable(variant.method), "code": variant.method_code}


def _dataset(origin: Provenance) -> dict[str, Any]:
    return {"fingerprint": origin.dataset.fingerprint, "train": origin.dataset.train, "test": origin.dataset.test}


def _corrupted(origin: Provenance) -> dict[str, Any]:
    """Returns how the corrupted images of a dataset were made, without folders that only this machine has."""
    scored = narrowed(origin.corrupted, Corrupted, "provenance.corrupted")
    found = scored.model_dump(mode="json", exclude={"path"})
    if found["published"] is not None:
        found["published"] = portable(found["published"])
    for own in found["own"].values():
        own["reference"] = portable(own["reference"])
    return found


def _environments(records: list[Record]) -> list[dict[str, Any]]:
    """Returns the distinct versions, devices and numerics, each with the number of runs that have them.

    How many runs shared a machine is left out, since that differs from one sweep to the next.
    """
    found = distinct(
        {
            "versions": record.provenance.versions,
            "device": record.provenance.device.model_dump(mode="json", exclude={"side_by_side"}),
            "numerics": record.provenance.numerics.json_value(),
        }
        for record in records
    )
    return [each.value | {"runs": each.runs} for each in found]
