"""What the report shows of a single run: parameters, how it ended, and where it comes from."""

from __future__ import annotations

from typing import Any

from normbench.results.tables.portable import portable
from normbench.results.tables.robustness import columns_of
from normbench.results.tables.runs import Named, status
from normbench.training.task import Task


def run_facts(named: list[Named]) -> list[dict[str, Any]]:
    """Returns for each run what its record says of it, as JSON values without absolute paths."""
    return [_facts(*each) for each in named]


def _facts(task: str, variant: str, record: Any) -> dict[str, Any]:
    own = record.provenance
    numbers = {name: record.metrics[name] for name in ("clean_accuracy", "fid") if record.metrics.get(name) is not None}
    found = {
        "kind": record.kind.value,
        "task": task,
        "variant": variant,
        "seed": record.seed,
        "status": status(record),
        "run": record.run,
        "method": portable(own.variant.method),
        "options": own.variant.options,
        "tuned": None if own.variant.applied is None else own.variant.applied.json_value(),
        "recipe": own.task.recipe.json_value(),
        "model": portable(own.task.model),
        "model_options": own.task.model_options,
        "dataset": {
            "name": own.dataset.name,
            "fingerprint": own.dataset.fingerprint,
            "origin": portable(own.dataset.origin),
            "note": own.dataset.note,
        },
        "device": own.device.json_value(),
        "versions": own.versions,
        "git": own.git.json_value(),
        "code": own.code,
        "numerics": own.numerics.json_value(),
        "started": own.started,
        "ended": own.ended,
        "seconds": record.cost.seconds,
        "diverged": record.diverged,
        "metrics": numbers | columns_of(record),
        "files": {name: stored.sha256 for name, stored in record.files.items()},
    }
    if isinstance(own.task, Task):
        found["train_fraction"] = own.task.train_fraction
        found["label_noise"] = own.task.label_noise and own.task.label_noise.json_value()
    return found
